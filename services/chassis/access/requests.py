"""
Of which namespaces a request is, by the templates of its contract.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import Message

from services.chassis.access.policies import REGISTRY
from services.chassis.errors import InvalidArgument

_FIELD = re.compile(r"\{([a-z_0-9.]+)\}")
_ANY: Final = "-"


@dataclass(frozen=True, slots=True)
class Place:
    """
    One field of a request, or one element of a repeated field, that names a resource.

    Args:
        message: that has the field.
        field: its name.
        index: of the element; None for a field that is not repeated.
        path: of the field in the request, for errors.
    """

    message: Any
    field: str
    index: int | None
    path: str

    @property
    def value(self) -> str:
        """
        The name in it.
        """
        found = getattr(self.message, self.field)
        return str(found if self.index is None else found[self.index])

    @property
    def namespace(self) -> str | None:
        """
        The id of the namespace; `REGISTRY` for the registry itself; None without a name, or for all namespaces.

        Raises:
            InvalidArgument: it is not the name of a resource.
        """
        return _namespace(self.value, self.path)


def _namespace(value: str, path: str) -> str | None:
    first, _, rest = value.partition("/")
    namespace = rest.partition("/")[0]
    if not value or namespace == _ANY:
        return None
    if value == "policy":
        return REGISTRY
    if first != "namespaces" or not namespace:
        raise InvalidArgument.of(path, "must be the name of a resource, which begins with namespaces/")
    return namespace


def namespaces_by(template: str) -> Callable[[Message], Sequence[str]]:
    """
    What finds the namespaces that the fields of a template name: those of `Place.namespace` without None. Made once per
    template: what it returns is called for each request.

    Args:
        template: as of `places`; empty for the registry itself.
    """
    if not template:
        return lambda _: (REGISTRY,)
    parts = _parts(template)
    name = parts[0]

    def of_places(request: Message) -> Sequence[str]:
        found = (place.namespace for place in _places(request, parts, ""))
        return [namespace for namespace in found if namespace is not None]

    def of_field(request: Message) -> Sequence[str]:
        value = getattr(request, name)
        if not isinstance(value, str):
            return of_places(request)
        namespace = _namespace(value, name)
        return () if namespace is None else (namespace,)

    return of_field if len(parts) == 1 else of_places


def places(template: str, request: Message) -> Iterator[Place]:
    """
    The fields that a template names.

    Args:
        template: "{parent}", "{items.versions.lineage.parent_version}".
    """
    yield from _places(request, _parts(template), "")


@lru_cache(maxsize=1024)
def _parts(template: str) -> Sequence[str]:
    found = _FIELD.fullmatch(template)
    if found is None:
        raise ValueError(f"{template!r} is no template of a permission: it has to be one field in braces")
    return tuple(found[1].split("."))


def _places(message: Any, parts: Sequence[str], above: str) -> Iterator[Place]:
    name, *rest = parts
    value, path = getattr(message, name), f"{above}{name}"
    repeated = not isinstance(value, str | Message)
    if not rest:
        if repeated:
            yield from (Place(message, name, index, f"{path}[{index}]") for index in range(len(value)))
        else:
            yield Place(message, name, None, path)
    elif repeated:
        for index, each in enumerate(value):
            yield from _places(each, rest, f"{path}[{index}].")
    else:
        yield from _places(value, rest, f"{path}.")


def rename(message: Message, names: Mapping[str, str]) -> None:
    """
    Replace namespaces in all names of resources in a message.

    Args:
        names: ids of namespaces, by the ids that they replace.
    """
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.type == field.TYPE_STRING:
            if isinstance(value, str):
                setattr(message, field.name, _renamed(value, names))
            else:
                value[:] = [_renamed(each, names) for each in value]
        elif field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                rename(each, names)


def _renamed(value: str, names: Mapping[str, str]) -> str:
    first, _, rest = value.partition("/")
    namespace, slash, below = rest.partition("/")
    if first != "namespaces" or namespace not in names:
        return value
    return f"{first}/{names[namespace]}{slash}{below}"
