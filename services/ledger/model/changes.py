"""
Changes: what a write reports to the change stream and records in the audit log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

Image = Mapping[str, Any]


class ChangeKind(IntEnum):
    """
    The kind of a change; the numbers are those of the contract and are stored.
    """

    CREATED = 1
    UPDATED = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """
    One resource that a write changed. It touches the tags of its name and of every prefix of it.

    Args:
        resource: its full name.
        kind: what happened.
        subtree: all resources below it changed with it. Also true for the creation of a resource that can have
            children: a cached "no such model" below a new namespace is as stale as one below a deleted namespace.
    """

    resource: str
    kind: ChangeKind
    subtree: bool = False

    def concerns(self, prefix: str) -> bool:
        """
        Whether the change concerns a watcher of *prefix*.
        """
        if not prefix or self.resource == prefix or self.resource.startswith(f"{prefix}/"):
            return True
        return self.subtree and prefix.startswith(f"{self.resource}/")


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An audit entry: a resource before and after a write, None where it did not exist.
    """

    resource: str
    before: Image | None
    after: Image | None


@dataclass(frozen=True, slots=True)
class Journal:
    """
    All changes of one write.
    """

    changes: Sequence[Change]
    entries: Sequence[Entry]

    @classmethod
    def created(cls, resource: object, after: Image, *, subtree: bool = False) -> Journal:
        """
        The journal of a write that creates one resource.
        """
        return cls.of(resource, ChangeKind.CREATED, None, after, subtree=subtree)

    @classmethod
    def updated(cls, resource: object, before: Image, after: Image) -> Journal:
        """
        The journal of a write that changes one resource.
        """
        return cls.of(resource, ChangeKind.UPDATED, before, after)

    @classmethod
    def of(
        cls, resource: object, kind: ChangeKind, before: Image | None, after: Image | None, *, subtree: bool = False
    ) -> Journal:
        """
        The journal of a write to one resource.
        """
        name = str(resource)
        return cls([Change(name, kind, subtree)], [Entry(name, before, after)])


@dataclass(frozen=True, slots=True)
class Revision:
    """
    One committed write, as the change stream reports it.
    """

    number: int
    commit_time: datetime
    changes: tuple[Change, ...] = field(repr=False)

    def concerning(self, prefix: str) -> tuple[Change, ...]:
        """
        The changes that concern a watcher of *prefix*.
        """
        return self.changes if not prefix else tuple(change for change in self.changes if change.concerns(prefix))


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """
    Nothing is missing up to *applied*.

    Args:
        applied: a revision.
        current: seconds after the stream began at which it was the newest one; None while the stream is behind.
        epoch: of the revisions.
    """

    applied: int
    current: float | None = None
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Discontinuity:
    """
    The log no longer reaches back to where a watcher wants to start.

    Args:
        oldest: the oldest revision that it holds.
        head: the newest one; the stream goes on after it.
        epoch: of the revisions.
    """

    oldest: int
    head: int
    epoch: str = ""


Event = Revision | Heartbeat | Discontinuity
