"""
Messages as JSON Schema, after the JSON mapping of proto3 (https://protobuf.dev/programming-guides/json/).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]

# 64-bit numbers are strings, because the numbers of JavaScript end at 2^53.
_INT64: Schema = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
_UINT64: Schema = {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}
_INT32: Schema = {"type": "integer", "format": "int32"}
_UINT32: Schema = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}

_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SFIXED32: _INT32,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_FIXED32: _UINT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT64: _UINT64,
    FieldDescriptor.TYPE_FIXED64: _UINT64,
}

#: Messages that are one string in JSON, and so may be a parameter.
STRINGS: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["description,labels"]},
}
_WELL_KNOWN: dict[str, Schema] = {
    **STRINGS,
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
}


class Schemas:
    """
    The schemas of the messages and enums that were asked for, and of those in them.

    Args:
        comments: what the contracts say, by full name.

    Attributes:
        components: the schemas by their names in the document.
    """

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def message(self, message: Descriptor) -> Schema:
        """
        A reference to the schema of a message; a well-known one is written out.

        Raises:
            ValueError: a message of `google.protobuf` whose JSON is not known here.
        """
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        if message.file.package == "google.protobuf":
            raise ValueError(f"the JSON of {message.full_name} is not known")
        name = _component(message.full_name)
        if name not in self.components:
            # It may be in itself.
            self.components[name] = {}
            self.components[name] = self.fields(message)
        return {"$ref": f"#/components/schemas/{name}"}

    def fields(self, message: Descriptor, without: Collection[str] = ()) -> Schema:
        """
        A message written out, without some of its fields.
        """
        found: Schema = {"type": "object"}
        notes = [self._comments.get(message.full_name, "")]
        notes += [
            f"At most one of {', '.join(f'`{field.json_name}`' for field in oneof.fields)} is set."
            for oneof in message.oneofs
            if len(oneof.fields) > 1
        ]
        if text := "\n\n".join(note for note in notes if note):
            found["description"] = text
        if properties := {field.json_name: self.field(field) for field in message.fields if field.name not in without}:
            found["properties"] = properties
        return found

    def field(self, field: FieldDescriptor) -> Schema:
        """
        The schema of a field, with what the contract says of it.
        """
        found = self._shape(field)
        if comment := self._comments.get(field.full_name, ""):
            found["description"] = comment
            if re.match(r"Output only\b", comment) or comment.endswith("; set by the server."):
                found["readOnly"] = True
        return found

    def _shape(self, field: FieldDescriptor) -> Schema:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(message.fields_by_name["value"])}
        if field.is_repeated:
            return {"type": "array", "items": self._one(field)}
        return self._one(field)

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return dict(_SCALARS[field.type])

    def _enum(self, enum: EnumDescriptor) -> Schema:
        name = _component(enum.full_name)
        if name not in self.components:
            meanings = {value.name: self._comments.get(f"{enum.full_name}.{value.name}") for value in enum.values}
            said = [self._comments.get(enum.full_name, "")]
            said += [f"* `{value}`: {' '.join(meaning.split())}" for value, meaning in meanings.items() if meaning]
            schema: Schema = {"type": "string", "enum": [value.name for value in enum.values]}
            if text := "\n".join(line for line in said if line):
                schema["description"] = text
            self.components[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}


def _component(full_name: str) -> str:
    return full_name.removeprefix("modelyard.")
