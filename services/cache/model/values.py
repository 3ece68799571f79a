"""
Values of the key-value cache, and the results of its operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """
    A stored value.

    Args:
        key: its key.
        value: its bytes.
        tags: invalidating one of them invalidates the value.
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
        ttl: in milliseconds.
    """

    key: str
    value: bytes
    tags: tuple[str, ...]
    ttl: int


@dataclass(frozen=True, slots=True)
class Found:
    """
    The result of a read, as of *sequence*.

    Args:
        values: one per key; None for a key that does not exist.
    """

    sequence: int
    values: Sequence[Value | None]


@dataclass(frozen=True, slots=True)
class Hit:
    """
    A value, as of *sequence*.
    """

    sequence: int
    value: Value


@dataclass(frozen=True, slots=True)
class Stored:
    """
    A completed write.

    Args:
        sequence: of the write.
        expires: when the last of the values expires, in milliseconds since the epoch.
    """

    sequence: int
    expires: int


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to fill a key.

    Args:
        token: increases from lease to lease.
        expires: when, in milliseconds since the epoch.
    """

    token: str
    expires: int


@dataclass(frozen=True, slots=True)
class Wait:
    """
    The lease is held by another caller.

    Args:
        milliseconds: until it expires.
    """

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """
    The size of a namespace.

    Args:
        entries: number of entries that have not expired.
        bytes: counted against the quota.
        evicted: number of entries that expired or were evicted.
    """

    entries: int
    bytes: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Invalidation:
    """
    The keys and tags that changed at *sequence*.
    """

    sequence: int
    keys: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """
    A page of a namespace's log.

    Args:
        epoch: changes when all data was lost; 0 while the namespace is empty.
        head: the newest sequence; the log is complete up to it.
        kept: the log contains the changes after this sequence.
        events: in order.
        complete: whether the events reach the head.
    """

    epoch: int
    head: int
    kept: int
    events: Sequence[Invalidation]
    complete: bool
