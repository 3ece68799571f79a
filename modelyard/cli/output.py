"""
Output of commands: tables for people, one line of JSON per message for programs.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Generic, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

# Control characters, which move the cursor or start escape sequences; line ends; and bidirectional controls, which make
# text appear in another order. Joiners of emoji and letters are kept.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Column(Generic[M]):
    """
    A column of a table.

    Args:
        title: header.
        value: the text of a message's cell.
        right: align right, for numbers.
    """

    title: str
    value: Callable[[M], str]
    right: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """
    Prints the result of a command.

    Args:
        json: print lines of JSON instead of tables.
        quiet: print the result without notes.
    """

    json: bool
    quiet: bool = False

    def many(self, messages: Iterable[M], columns: Sequence[Column[M]], none: str) -> None:
        """
        Print a list as a table, or the note *none* if it is empty.
        """
        if self.json:
            for message in messages:
                self._line(message)
            return
        rows = [[plain(column.value(message)) for column in columns] for message in messages]
        if not rows:
            self.note(none)
            return
        for line in table([column.title for column in columns], rows, [column.right for column in columns]):
            print(line)

    def one(self, message: Message, facts: Iterable[tuple[str, str]]) -> None:
        """
        Print one resource: the names and values in *facts* that are not empty.
        """
        if self.json:
            self._line(message)
            return
        _print_facts(facts)

    def facts(self, values: Mapping[str, str]) -> None:
        """
        Print what no message of the API holds: names and values, without empty ones unless with --json.
        """
        if self.json:
            print(json_line(dict(values)), flush=True)
        else:
            _print_facts(values.items())

    def line(self, message: Message, text: str) -> None:
        """
        Print one resource of a stream.
        """
        if self.json:
            self._line(message)
        else:
            print(plain(text), flush=True)

    def note(self, text: str) -> None:
        """
        Print a note on stderr, unless with --json or --quiet.
        """
        if not self.json and not self.quiet:
            print(plain(text), file=sys.stderr)

    def document(self, text: str) -> None:
        """
        Print a document byte for byte; on a terminal, with control characters escaped.
        """
        if sys.stdout.isatty():
            print("\n".join(plain(line.removesuffix("\r").expandtabs()) for line in text.split("\n")), end="")
            return
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())

    def warn(self, text: str) -> None:
        """
        Print a warning on stderr, also with --json and --quiet.
        """
        print(f"warning: {text}", file=sys.stderr)

    def _line(self, message: Message) -> None:
        # As over HTTP: fields that are 0, false or empty are included.
        print(json_line(MessageToDict(message, always_print_fields_with_no_presence=True)), flush=True)


def _print_facts(facts: Iterable[tuple[str, str]]) -> None:
    shown = [(plain(name), value) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name.ljust(width)}  {plain(value)}")


def escape_unencodable() -> None:
    """
    Print escapes for characters that the console's encoding lacks, instead of failing.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """
    *text* as one line without control characters: it may come from another user.
    """
    return _ACTIVE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def json_line(value: Any) -> str:
    """
    *value* as a line of JSON, with control characters and those that the console lacks escaped.
    """
    utf8 = (sys.stdout.encoding or "").lower().replace("_", "-") in {"utf-8", "utf8"}
    line = json.dumps(value, ensure_ascii=not utf8)
    return _ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """
    The lines of a table with columns of minimal width, separated by two spaces.
    """
    cells = [list(titles), *map(list, rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(titles))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def time_of(stamp: Timestamp) -> str:
    """
    A time in UTC as YYYY-MM-DD HH:MM:SS; empty if it is not set.
    """
    if not stamp.seconds and not stamp.nanos:
        return ""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S")


def count(number: int) -> str:
    """
    A number with thousands separators; empty for 0, which means unknown.
    """
    return f"{number:,}" if number else ""


def number(value: float) -> str:
    """
    A float as its shortest exact representation.
    """
    return repr(value).removesuffix(".0")


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """
    ``a=1 b=2``, sorted.
    """
    return " ".join(f"{key}={value}" for key, value in sorted(items))
