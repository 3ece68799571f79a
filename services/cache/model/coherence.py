"""
Decides whether an entry may be served, by comparing revisions only (ADR 0003).

For every tag, it has a revision at least as new as the last one that touched it, learned from the origin's change
stream. An entry that was read at revision r is valid only if none of its tags was touched after r. So answers and
changes may arrive in any order, and more than once: a slow answer that was read before a write carries a revision older
than the write's, and is invalid when it arrives.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Sequence

from services.cache.model.entries import Entry

# A power of two: 8 MiB, independent of the number of changes (ADR 0039).
CELLS = 1 << 20


class Coherence:
    """
    The known changes of one origin: all revisions in (floor, applied]. Entries read before the floor cannot be
    validated and are invalid.

    The newest revision of each name is in one cell of a table that never grows, by the name's hash. Names that share a
    cell share the newer revision: their entries may be loaded more often than needed, and are never served for longer.
    Callers cannot provoke collisions, as Python's hash of strings is keyed with a random value of each process.

    Args:
        bound: maximum age of the stream in seconds; beyond it, nothing is served.
        cells: size of the table, a power of two.
        nested: whether names are hierarchical, so that a change of a/b is also one of a.
        clock: in seconds, for tests.
        hashed: the hash of a name, for tests.

    Attributes:
        bound: as given.
        applied: every revision up to this one is known.
        epoch: of the revisions, from the stream; empty before its first message, and with origins that have none.
        floor: entries read before this revision are invalid.
    """

    __slots__ = (
        "_cells",
        "_clock",
        "_depths",
        "_generation",
        "_hashed",
        "_heard",
        "_mask",
        "_nested",
        "_newest_subtree",
        "applied",
        "bound",
        "epoch",
        "floor",
    )

    def __init__(
        self,
        *,
        bound: float = 2.0,
        cells: int = CELLS,
        nested: bool = True,
        clock: Callable[[], float] = time.monotonic,
        hashed: Callable[[str], int] = hash,
    ) -> None:
        self.applied = 0
        self.floor = 0
        self.epoch = b""
        self.bound = bound
        self._clock = clock
        self._nested = nested
        self._hashed = hashed
        self._heard = float("-inf")
        # Changes of a name are in the cell of its hash, changes of its whole subtree in that of the hash's complement.
        self._cells = array("q", bytes(8 * cells))
        self._mask = cells - 1
        # The newest subtree change, by the number of slashes in its name.
        self._depths: dict[int, int] = {}
        self._newest_subtree = 0
        # Incremented with each change: an entry validated since the last one is not validated again.
        self._generation = 0

    def apply(self, revision: int, changes: Iterable[tuple[str, bool]]) -> None:
        """
        Apply one revision.

        Args:
            revision: its number; a repeated one changes nothing.
            changes: the resources that it changed, each with whether its whole subtree changed.
        """
        self.touch(revision, changes)
        self.applied = max(self.applied, revision)

    def touch(self, revision: int, changes: Iterable[tuple[str, bool]]) -> None:
        """
        Apply changes learned otherwise than from the stream: earlier revisions may still arrive.
        """
        self._generation += 1
        cells, hashed, mask = self._cells, self._hashed, self._mask
        for resource, subtree in changes:
            for prefix in prefixes(resource) if self._nested else (resource,):
                cell = hashed(prefix) & mask
                if cells[cell] < revision:
                    cells[cell] = revision
            if subtree:
                cell = ~hashed(resource) & mask
                if cells[cell] < revision:
                    cells[cell] = revision
                depth = resource.count("/")
                self._depths[depth] = max(self._depths.get(depth, 0), revision)
                self._newest_subtree = max(self._newest_subtree, revision)

    def heard(self, applied: int, at: float) -> None:
        """
        Record that the stream is complete up to *applied*.

        Args:
            at: a time at which no newer revision had been committed; the age counts from it.
        """
        self.applied = max(self.applied, applied)
        self._heard = max(self._heard, at)

    def reset(self, head: int) -> None:
        """
        Forget all changes: entries read before *head* are invalid from now on.
        """
        self._generation += 1
        # Revisions of another database may be smaller than the known ones.
        self._cells = array("q", bytes(8 * len(self._cells)))
        self._depths.clear()
        self._newest_subtree = 0
        self.applied = self.floor = head

    @property
    def age(self) -> float:
        """
        Seconds since the time up to which all commits are known. Infinite before the stream's first message.
        """
        return self._clock() - self._heard

    @property
    def live(self) -> bool:
        """
        Whether the stream is recent enough to serve cached entries.
        """
        return self._clock() - self._heard <= self.bound

    def holds(self, entry: Entry) -> bool:
        """
        Whether an entry is valid; one comparison if it was validated since the last change.
        """
        if entry.validated == self._generation:
            return True
        if not self.valid(entry.revision, entry.tags):
            return False
        entry.validated = self._generation
        return True

    def valid(self, revision: int, tags: Sequence[str]) -> bool:
        """
        Whether, as far as known, the origin would still return an answer with *tags* that was read at *revision*.
        """
        if revision < self.floor:
            return False
        cells, hashed, mask = self._cells, self._hashed, self._mask
        for tag in tags:
            if cells[hashed(tag) & mask] > revision:
                return False
        return self._newest_subtree <= revision or self._newest_above(revision, tags) <= revision

    def newest(self, tags: Sequence[str]) -> int:
        """
        The newest revision that may have touched *tags*: answers of earlier revisions are already invalid.
        """
        cells, hashed, mask = self._cells, self._hashed, self._mask
        newest = max((cells[hashed(tag) & mask] for tag in tags), default=0)
        return max(newest, self._newest_above(newest, tags), self.floor)

    def reaches(self, minimum: int, revision: int) -> bool:
        """
        Whether a valid answer read at *revision* is known to reflect *minimum*.
        """
        return minimum <= self.applied or minimum <= revision

    def _newest_above(self, revision: int, tags: Sequence[str]) -> int:
        """
        The newest subtree change of a proper prefix of one of *tags*, if it is newer than *revision*. (A subtree change
        is also in the cell of its own name.)
        """
        cells, hashed, mask = self._cells, self._hashed, self._mask
        newest = 0
        # Each new model is a subtree change: tags that are not deeper than a model need no lookup for it.
        for depth, changed in self._depths.items():
            if changed > revision:
                for tag in tags:
                    if tag.count("/") > depth:
                        above = "/".join(tag.split("/", depth + 1)[:-1])
                        newest = max(newest, cells[~hashed(above) & mask])
        return newest


def prefixes(name: str) -> list[str]:
    """
    A resource name and every prefix of it that ends at a slash: a/b/c, a/b, a.
    """
    found = [name]
    end = name.rfind("/")
    while end > 0:
        found.append(name[:end])
        end = name.rfind("/", 0, end)
    return found
