"""
The HTTP paths of an RPC, from its `google.api.http` option.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import MethodDescriptor

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]+))?\}")


@dataclass(frozen=True, slots=True)
class Segment:
    """
    A variable part of a path.

    Args:
        name: in the path.
        field: the request's field that it is in, such as model.name.
        pattern: what the whole field looks like, such as namespaces/*/models/*; empty when it is the segment alone.
        many: it may have slashes.
    """

    name: str
    field: str
    pattern: str
    many: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """
    One way to call an RPC over HTTP.

    Args:
        verb: get, put, post, delete or patch.
        template: the path as the contract has it.
        body: the request's field that is the body, `*` for all that is not in the path, empty for none.
    """

    verb: str
    template: str
    body: str

    @property
    def path(self) -> str:
        """
        The path with a name for each variable segment, as OpenAPI has it.
        """
        return _VARIABLE.sub(lambda found: _expand(*found.groups())[0], self.template)

    @property
    def segments(self) -> list[Segment]:
        """
        The variable segments, in order.
        """
        return [each for found in _VARIABLE.finditer(self.template) for each in _expand(*found.groups())[1]]

    @property
    def regex(self) -> str:
        """
        The paths as a regular expression of RE2.
        """
        parts = re.split(r"\{([^}]+)\}", self.path)
        many = {segment.name for segment in self.segments if segment.many}
        return "".join(
            (r"[^?]+" if part in many else r"[^/:?]+") if index % 2 else re.escape(part)
            for index, part in enumerate(parts)
        )


def bindings(method: MethodDescriptor) -> list[Binding]:
    """
    The bindings of an RPC, the main one first; none when it has no path.
    """
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return []
    rule = options.Extensions[annotations_pb2.http]
    return [_binding(each) for each in (rule, *rule.additional_bindings)]


def _binding(rule: HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern")
    if verb in (None, "custom") or rule.response_body:
        raise ValueError(f"this kind of binding is not known here: {rule}")
    return Binding(verb, getattr(rule, verb), rule.body)


def _expand(field: str, pattern: str | None) -> tuple[str, list[Segment]]:
    """
    A variable's part of the path, and its segments.
    """
    if not pattern:
        name = field.rpartition(".")[2]
        return f"{{{name}}}", [Segment(name, field, "")]
    parts = pattern.split("/")
    names = list(_names(parts))
    segments = [
        Segment(name, field, pattern, part == "**")
        for name, part in zip(names, parts, strict=True)
        if part in ("*", "**")
    ]
    return "/".join(
        f"{{{name}}}" if part in ("*", "**") else part for name, part in zip(names, parts, strict=True)
    ), segments


def _names(parts: list[str]) -> Iterator[str]:
    for before, part in zip(["", *parts], parts, strict=False):
        # aliases/* is an alias, models/* a model.
        yield {"*": re.sub(r"(?<=s)es$|s$", "", before), "**": "path"}.get(part, part)
