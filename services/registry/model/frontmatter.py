"""
The Hugging Face model card format: YAML front matter between lines of three dashes, then Markdown
(https://huggingface.co/docs/hub/model-cards). What was imported is kept to the letter; what is changed afterwards is
changed in the YAML's own nodes, so that unknown keys keep their place, their order and the way they are written.

`license` is the card's own field. The card's prose (intended use, limitations …) has no key in that format: it goes
under `modelyard`, which others ignore. All other keys are the card's `extra`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from services.chassis.checks import Checks

MOST_FRONT = 256 * 1024
_MOST_NODES = 20_000
_MOST_DEPTH = 32
_MOST_EXACT = 2**53
_OWN = "modelyard"
_LICENSE = "license"
_FENCE = re.compile(r"---[ \t]*")
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}


class FrontMatterError(Exception):
    """
    What is wrong with a card's front matter, and in which line of the card.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """
    A card in that format.

    Args:
        front: everything up to and including the line that closes the front matter, to the letter; empty without one.
        markdown: the rest, to the letter.
        own: the prose under `modelyard`, and `license`.
        extra: the other keys, as JSON.
    """

    front: str
    markdown: str
    own: dict[str, str]
    extra: dict[str, Any]


def parse_card(checks: Checks, field: str, content: str, sections: tuple[str, ...]) -> Parsed:
    """
    The card in *content*; what is wrong with it is noted on *field*, with the line.

    Args:
        sections: the names of the prose fields.
    """
    try:
        front, inner, markdown = _split(content)
        if len(front.encode()) > MOST_FRONT:
            raise FrontMatterError(1, f"the front matter must be at most {MOST_FRONT:,} bytes")
        root = _compose(inner)
        data = _Plain().mapping(root) if root is not None else {}
        own, extra = _sorted_out(data, sections)
        return Parsed(front, markdown, own, extra)
    except FrontMatterError as error:
        checks.add(field, str(error))
        return Parsed("", "", {}, {})


def changed_front(front: str, own: Mapping[str, str], extra: Mapping[str, Any], sections: tuple[str, ...]) -> str:
    """
    Front matter that says *own* and *extra*: *front* itself if it does already, else *front* with its YAML changed.
    """
    inner = _split(front)[1] if front else ""
    root = _compose(inner)
    data = _Plain().mapping(root) if root is not None else {}
    if _same(_sorted_out(data, sections), (dict(own), dict(extra))):
        return front
    wanted: dict[str, Any] = dict(extra)
    if own.get(_LICENSE):
        wanted[_LICENSE] = own[_LICENSE]
    if prose := {name: text for name, text in own.items() if name != _LICENSE and text}:
        wanted[_OWN] = prose
    if not wanted:
        return ""
    nodes = {key.value: (key, value) for key, value in root.value} if root is not None else {}
    places = [*(name for name in nodes if name in wanted), *(name for name in wanted if name not in nodes)]
    pairs = [
        nodes[name] if name in nodes and _same(data[name], wanted[name]) else _pair(name, wanted[name])
        for name in places
    ]
    mapping = yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)
    return f"---\n{yaml.serialize(mapping, Dumper=yaml.SafeDumper, allow_unicode=True, width=10_000)}---\n"


def _same(one: Any, other: Any) -> bool:
    # Python takes True for 1; YAML and JSON do not.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _split(content: str) -> tuple[str, str, str]:
    """
    The front matter with its fences, what is between them, and the rest.
    """
    lines = content.splitlines(keepends=True)
    if not lines or not _FENCE.fullmatch(lines[0].removeprefix("\ufeff").rstrip("\r\n")):
        return "", "", content
    for number, line in enumerate(lines[1:], start=1):
        if _FENCE.fullmatch(line.rstrip("\r\n")):
            return "".join(lines[: number + 1]), "".join(lines[1:number]), "".join(lines[number + 1 :])
    raise FrontMatterError(1, "the front matter that begins here is never closed with a line of three dashes")


def _compose(inner: str) -> yaml.MappingNode | None:
    try:
        root = yaml.compose(inner, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FrontMatterError(mark.line + 2 if mark else 1, error.problem or "is not YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FrontMatterError(
            1, f"is not YAML: {str(error).splitlines()[0] if str(error) else 'nested too deep'}"
        ) from None
    if root is None:
        return None
    if not isinstance(root, yaml.MappingNode):
        raise FrontMatterError(_line(root), "the front matter must be a mapping: key: value")
    return root


class _Plain:
    """
    Nodes as JSON values. What JSON has no type for (dates, infinities, very large numbers) becomes its text.
    """

    def __init__(self) -> None:
        self._count = 0
        self._loader = yaml.SafeLoader("")

    def mapping(self, node: yaml.MappingNode, depth: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FrontMatterError(_line(key), "a key must be a plain word")
            if key.value in found:
                raise FrontMatterError(_line(key), f'the key "{key.value[:80]}" comes twice')
            found[key.value] = self._value(value, depth + 1)
        return found

    def _value(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > _MOST_NODES:
            raise FrontMatterError(_line(node), f"has more than {_MOST_NODES:,} values, its aliases spelt out")
        if depth > _MOST_DEPTH:
            raise FrontMatterError(_line(node), f"is nested more than {_MOST_DEPTH} deep")
        if node.tag not in _TAGS:
            raise FrontMatterError(_line(node), f"the tag {node.tag} is not one of a card's")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, depth + 1) for each in node.value]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag.endswith(":timestamp"):
            return node.value
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            return node.value
        if isinstance(value, float) and not math.isfinite(value):
            return node.value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MOST_EXACT:
            return node.value
        return value


def _sorted_out(data: Mapping[str, Any], sections: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """
    The card's own texts, and the rest. What is not as we write it stays in the rest.
    """
    own: dict[str, str] = {}
    extra = dict(data)
    if isinstance(data.get(_LICENSE), str) and data[_LICENSE]:
        own[_LICENSE] = extra.pop(_LICENSE)
    prose = data.get(_OWN)
    if (
        isinstance(prose, dict)
        and prose
        and all(name in sections and isinstance(text, str) and text for name, text in prose.items())
    ):
        own |= extra.pop(_OWN)
    return own, extra


def _pair(name: str, value: Any) -> tuple[yaml.Node, yaml.Node]:
    dumper = yaml.representer.SafeRepresenter(default_flow_style=False, sort_keys=False)
    return dumper.represent_data(name), dumper.represent_data(value)


def _line(node: yaml.Node) -> int:
    # Lines of the card: the first one is the opening fence.
    return int(node.start_mark.line) + 2 if node.start_mark else 1
