"""
The validation rules for request fields, and a collector that reports all violations of a request at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, Self, TypeVar

from services.chassis.errors import InvalidArgument, Violations


class Name(Protocol):
    """
    A kind of resource name.
    """

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """
        Raises:
            InvalidArgument: *text* is not such a name; the violation is on *field*.
        """

    @classmethod
    def nowhere(cls) -> Self:
        """
        A name that stands in for one that did not parse, while the rest of a request is being checked.
        """


N = TypeVar("N", bound=Name)

MOST_INT64 = 2**63 - 1
MOST_LABELS = 64
MOST_LABEL_VALUE = 256
#: Of models and versions.
MOST_FREE_ENTRIES: Final = 256
MOST_ANNOTATION_VALUE: Final = 100_000
MOST_ANNOTATIONS: Final = 1 << 20
MOST_REQUEST_ID = 128

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
#: The keys of labels and annotations of models and versions.
FREE_KEY = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,250}")
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_SECONDS, _MOST_SECONDS = -62135596800, 253402300799  # the years 1 to 9999, as in timestamp.proto


class Checks(Violations):
    """
    Checks the fields of one request. Every method collects violations and continues; `raise_if_any` raises them.
    """

    __slots__ = ()

    def name(self, kind: type[N], field: str, text: str) -> N:
        """
        The name in *text*, or `kind.nowhere()` if it is not a name of that *kind*.
        """
        try:
            return kind.parse(text, field)
        except InvalidArgument as error:
            self.extend(error.violations)
            return kind.nowhere()

    def matches(self, field: str, text: str, pattern: re.Pattern[str]) -> str:
        """
        *text* must match all of *pattern*.
        """
        if not pattern.fullmatch(text):
            self.add(field, f"must match {pattern.pattern}")
        return text

    def text(self, field: str, text: str, most: int) -> str:
        """
        *text* must have at most *most* characters, none of them NUL, which PostgreSQL cannot store.
        """
        if len(text) > most:
            self.add(field, f"must be at most {most:,} characters; it has {len(text):,}")
        if "\0" in text:
            self.add(field, "must not contain the character NUL")
        return text

    def labels(self, field: str, labels: Mapping[str, str], most: int = MOST_LABEL_VALUE) -> dict[str, str]:
        """
        *labels* must be at most 64, with keys [a-z][a-z0-9_.-]{0,62} and values of at most *most* characters.
        """
        if len(labels) > MOST_LABELS:
            self.add(field, f"must have at most {MOST_LABELS} entries; it has {len(labels):,}")
            return {}
        for key in sorted(labels):
            place = f'{field}["{_shown(key)}"]'
            if not _KEY.fullmatch(key):
                self.add(place, f"the key must match {_KEY.pattern}")
            self.text(place, labels[key], most)
        return dict(sorted(labels.items()))

    def free_labels(self, field: str, labels: Mapping[str, str]) -> None:
        """
        *labels* must be at most 256, with keys of 1 to 250 characters, none of them a control character, and values of
        at most 256 characters.
        """
        for place, value in self._free_entries(field, labels):
            self.text(place, value, MOST_LABEL_VALUE)

    def annotations(self, field: str, annotations: Mapping[str, str]) -> None:
        """
        As `free_labels`, but with values of at most 100,000 bytes, and at most 1 MiB in all.
        """
        for place, value in self._free_entries(field, annotations):
            if (size := len(value.encode())) > MOST_ANNOTATION_VALUE:
                self.add(place, f"must be at most {MOST_ANNOTATION_VALUE:,} bytes; it has {size:,}")
            if "\0" in value:
                self.add(place, "must not contain the character NUL")
        if (size := size_of(annotations)) > MOST_ANNOTATIONS:
            self.add(field, f"must have at most {MOST_ANNOTATIONS:,} bytes in all; it has {size:,}")

    def _free_entries(self, field: str, entries: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        if len(entries) > MOST_FREE_ENTRIES:
            self.add(field, f"must have at most {MOST_FREE_ENTRIES} entries; it has {len(entries):,}")
            return
        for key in sorted(entries):
            place = f'{field}["{_shown(key)}"]'
            if not FREE_KEY.fullmatch(key):
                self.add(place, "the key must have 1 to 250 characters, and no control characters")
            yield place, entries[key]

    def count(self, field: str, number: int) -> int:
        """
        *number* must not be negative.
        """
        if number < 0:
            self.add(field, "must not be negative")
        return number

    def finite(self, field: str, number: float) -> float:
        """
        *number* must be neither infinite nor NaN.
        """
        if not math.isfinite(number):
            self.add(field, "must be finite")
        return number

    def size(self, field: str, items: Sequence[object], most: int, least: int = 1) -> None:
        """
        *items* must have from *least* to *most* entries.
        """
        if not least <= len(items) <= most:
            self.add(field, f"must have {least:,} to {most:,} entries; it has {len(items):,}")

    def time(self, field: str, seconds: int, nanos: int) -> datetime:
        """
        The moment that a Timestamp's *seconds* and *nanos* give, to the microsecond.
        """
        if not (_LEAST_SECONDS <= seconds <= _MOST_SECONDS and 0 <= nanos < 1_000_000_000):
            self.add(field, "must be a time in the years 1 to 9999")
            return _EPOCH
        return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)

    def request_id(self, text: str) -> str:
        """
        A request id must be short and printable: it is stored in the audit log.
        """
        if len(text) > MOST_REQUEST_ID or not text.isprintable():
            self.add("request_id", f"must be at most {MOST_REQUEST_ID} printable characters")
        return text

    def total(self, field: str, numbers: Sequence[int]) -> int:
        """
        The sum of *numbers* must fit an int64.
        """
        if (total := sum(numbers)) > MOST_INT64:
            self.add(field, "must add up to less than 2^63")
            return 0
        return total


def size_of(entries: Mapping[str, str]) -> int:
    """
    The bytes of the keys and values of a map.
    """
    return sum(len(key.encode()) + len(value.encode()) for key, value in entries.items())


def _shown(key: str) -> str:
    # A key may be megabytes of anything: what goes into the error must be short and one line.
    short = key if len(key) <= 80 else f"{key[:80]}…"
    return short.encode("unicode_escape").decode() if not short.isprintable() else short
