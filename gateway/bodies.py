"""
Tables for the Lua scripts from the contracts: the methods of JSON paths and the fields of their bodies.

The transcoder drops unknown fields silently, without an option to reject them. `bodies.lua` rejects them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.openapi.bindings import Binding, bindings
from modelyard.contracts import services

_FOLDER = Path(__file__).parent
# Any key is right in these, or their JSON is no object.
_FREE: Final = re.compile(
    r"google\.protobuf\.(Any|Struct|Value|ListValue|Timestamp|Duration|FieldMask|\w+Value)|google\.api\.HttpBody"
)


def values() -> dict[str, object]:
    """
    The values of placeholders in `envoy.yaml`: the scripts before the transcoder.
    """
    paths, types = _tables()
    prelude = (_FOLDER / "paths.lua").read_text().replace("${PATHS}", paths)
    scanner = (_FOLDER / "bodies.lua").read_text().replace("${TYPES}", types)
    return {
        "JSON_LUA": prelude + (_FOLDER / "json.lua").read_text(),
        "PIECE_LUA": prelude + scanner + (_FOLDER / "piece.lua").read_text(),
    }


class _Types:
    """
    The messages that a body may hold, by number: their fields' names, and for each what is in it.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows: list[str] = []

    def number(self, message: Descriptor) -> int:
        """
        The number of *message*; 0 where any key is right.
        """
        if _FREE.fullmatch(message.full_name):
            return 0
        if message.full_name not in self._numbers:
            # Before its fields: a message may hold itself.
            self._numbers[message.full_name] = len(self._rows) + 1
            self._rows.append("")
            self._rows[self._numbers[message.full_name] - 1] = self._fields(message)
        return self._numbers[message.full_name]

    def kind(self, field: FieldDescriptor) -> int:
        """
        What is in a field: the number of its message, or of each in its list; negative where the message is the value
        of a map; 0 for what is not looked into.
        """
        if field.message_type is None:
            return 0
        if not field.message_type.GetOptions().map_entry:
            return self.number(field.message_type)
        value = field.message_type.fields_by_name["value"]
        return -self.kind(value)

    def lua(self) -> str:
        """
        As a table of Lua.
        """
        return "{\n" + "".join(f"  {row},\n" for row in self._rows) + "}"

    def _fields(self, message: Descriptor) -> str:
        # Both spellings are taken, as proto3 JSON has it.
        kinds = {name: self.kind(field) for field in message.fields for name in (field.json_name, field.name)}
        return "{" + ", ".join(f"[{json.dumps(name)}] = {kind}" for name, kind in kinds.items()) + "}"


def _tables() -> tuple[str, str]:
    types = _Types()
    rows = [
        (binding, *_root(types, method.input_type, binding.body))
        for service in services()
        for method in service.methods
        for binding in bindings(method)
    ]
    # A path with a verb of its own is no id with a colon in it.
    rows.sort(key=lambda row: ":" not in row[0].template.rpartition("/")[2].rpartition("}")[2])
    lines = (
        f"  {{{json.dumps(binding.verb.upper())}, {json.dumps(_pattern(binding))}, {kind}, {json.dumps(prefix)}}},\n"
        for binding, kind, prefix in rows
    )
    return "{\n" + "".join(lines) + "}", types.lua()


def _root(types: _Types, request: Descriptor, body: str) -> tuple[int, str]:
    if body in ("", "*"):
        return types.number(request) if body else 0, ""
    return types.kind(request.fields_by_name[body]), f"{body}."


def _pattern(binding: Binding) -> str:
    """
    The paths as a pattern of Lua.
    """
    many = {segment.name for segment in binding.segments if segment.many}
    parts = re.split(r"\{([^}]+)\}", binding.path)
    escaped = (
        (".+" if part in many else "[^/]+") if index % 2 else re.sub(r"([^A-Za-z0-9/:])", r"%\1", part)
        for index, part in enumerate(parts)
    )
    return "^" + "".join(escaped) + "$"
