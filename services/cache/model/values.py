"""
What the key-value cache keeps and says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """
    A value under its key.

    Args:
        key: its key.
        value: its bytes.
        tags: what makes it stale.
        expires: when, in milliseconds since the epoch.
    """

    key: str
    value: bytes
    tags: tuple[str, ...]
    expires: int


@dataclass(frozen=True, slots=True)
class Draft:
    """
    A value to store.

    Args:
        ttl: milliseconds that it lives.
    """

    key: str
    value: bytes
    tags: tuple[str, ...]
    ttl: int


@dataclass(frozen=True, slots=True)
class Found:
    """
    What there was at *sequence*.

    Args:
        values: for each key, None where there is none.
    """

    sequence: int
    values: Sequence[Value | None]


@dataclass(frozen=True, slots=True)
class Hit:
    """
    A value that was there at *sequence*.
    """

    sequence: int
    value: Value


@dataclass(frozen=True, slots=True)
class Stored:
    """
    A write that was done.

    Args:
        sequence: its own.
        expires: when what was written last goes, in milliseconds since the epoch.
    """

    sequence: int
    expires: int


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to fill a key.

    Args:
        token: grows from lease to lease.
        expires: when it ends, in milliseconds since the epoch.
    """

    token: str
    expires: int


@dataclass(frozen=True, slots=True)
class Wait:
    """
    Somebody else has the lease.

    Args:
        milliseconds: until it ends.
    """

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """
    What a namespace holds.

    Args:
        entries: that have not expired.
        bytes: that count against the quota.
        evicted: entries that expired.
    """

    entries: int
    bytes: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Invalidation:
    """
    What changed at *sequence*.
    """

    sequence: int
    keys: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """
    A part of a namespace's log.

    Args:
        epoch: changes when everything was lost; 0 while there is nothing.
        head: nothing is missing up to it once the last event is read.
        kept: what follows it is in the log.
        events: in order.
        complete: whether the events reach up to the head.
    """

    epoch: int
    head: int
    kept: int
    events: Sequence[Invalidation]
    complete: bool
