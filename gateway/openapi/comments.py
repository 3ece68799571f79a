"""
What the contracts say in prose.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

_ROOT = Path(__file__).resolve().parents[2]
_NAMED = {"message_type", "enum_type", "service", "field", "nested_type", "value", "method"}
# A code, and what it means from the same column on, on further lines if need be.
_ERROR = re.compile(r"^ {2}([A-Z_]+) +(\S.*(?:\n {4,}\S.*)*)", re.MULTILINE)


def of_contracts() -> dict[str, str]:
    """
    The comments of the contracts as they are now: the stubs know the contracts, but no comments.

    Raises:
        SystemExit: protoc found a mistake and has reported it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        command = [sys.executable, "-m", "protos.generate", "--image", str(image)]
        if subprocess.run(command, cwd=_ROOT, check=False).returncode:
            raise SystemExit(1)
        return comments(FileDescriptorSet.FromString(image.read_bytes()))


def comments(image: FileDescriptorSet) -> dict[str, str]:
    """
    The comments before messages, fields, enums and their values, services and methods, by full name; an enum's value is
    below its enum.

    Args:
        image: a descriptor set with source info, as `python -m protos.generate --image` writes it.
    """
    return {name: text for file in image.file for name, text in _of_file(file)}


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        if location.leading_comments and (names := _names(file, list(location.path))):
            lines = location.leading_comments.rstrip().split("\n")
            yield ".".join([file.package, *names]), "\n".join(line.removeprefix(" ").rstrip() for line in lines)


def _names(file: FileDescriptorProto, path: list[int]) -> list[str]:
    """
    The names along a path of field numbers and indices; none when it leads to something without a name.
    """
    at: Any = file
    names: list[str] = []
    if len(path) % 2:
        return []
    for number, index in zip(path[::2], path[1::2], strict=True):
        field = at.DESCRIPTOR.fields_by_number[number].name
        if field not in _NAMED:
            return []
        at = getattr(at, field)[index]
        names.append(at.name)
    return names


@dataclass(frozen=True, slots=True)
class Prose:
    """
    The comment of a method in its parts.

    Args:
        summary: the first sentence.
        description: all but the list of errors.
        errors: by the code's name, what it means here.
    """

    summary: str
    description: str
    errors: Mapping[str, str]

    @classmethod
    def parse(cls, comment: str) -> Prose:
        """
        Read a comment that ends in `Errors:` and a list of them.
        """
        text, _, listed = comment.partition("\nErrors:\n")
        text = re.sub(r"\nErrors: none of its own\.$", "", text).strip()
        errors = {code: " ".join(meaning.split()) for code, meaning in _ERROR.findall(listed)}
        return cls(_sentence(text), text, errors)


def _sentence(text: str) -> str:
    first = " ".join(text.split("\n\n", 1)[0].split())
    return re.split(r"(?<=[^.][.:;]) ", first, maxsplit=1)[0].rstrip(".:;")
