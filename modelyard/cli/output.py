"""
What commands print: tables for people, a line of JSON for each message for programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Generic, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Column(Generic[M]):
    """
    A column of a table.

    Args:
        title: its head.
        value: the text in it.
        right: whether it is numbers.
    """

    title: str
    value: Callable[[M], str]
    right: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """
    Where a command's answer goes.

    Args:
        json: lines of JSON instead of tables.
    """

    json: bool

    def many(self, messages: Iterable[M], columns: Sequence[Column[M]], none: str) -> None:
        """
        Print a list: a table, or *none* on stderr when there is nothing.
        """
        if self.json:
            for message in messages:
                self._line(message)
            return
        rows = [[column.value(message) for column in columns] for message in messages]
        if not rows:
            print(none, file=sys.stderr)
            return
        for line in table([column.title for column in columns], rows, [column.right for column in columns]):
            print(line)

    def one(self, message: Message, facts: Iterable[tuple[str, str]]) -> None:
        """
        Print one thing: *facts* about it, those that are not empty.
        """
        if self.json:
            self._line(message)
            return
        shown = [(name, value) for name, value in facts if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            print(f"{name.ljust(width)}  {value}")

    def line(self, message: Message, text: str) -> None:
        """
        Print one of many things that come one by one.
        """
        if self.json:
            self._line(message)
        else:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """
        Say something beside the answer.
        """
        if not self.json:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """
        Say something that nobody should miss, also those who read JSON.
        """
        print(f"warning: {text}", file=sys.stderr)

    def _line(self, message: Message) -> None:
        print(json.dumps(MessageToDict(message), ensure_ascii=False), flush=True)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """
    The lines of a table: columns as wide as they need to be, two spaces between them.
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
    A time as people read it, in UTC; empty when it is not set.
    """
    if not stamp.seconds and not stamp.nanos:
        return ""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S")


def count(number: int) -> str:
    """
    A number with separators; empty for 0, which means not known.
    """
    return f"{number:,}" if number else ""


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """
    ``a=1 b=2``, sorted.
    """
    return " ".join(f"{key}={value}" for key, value in sorted(items))
