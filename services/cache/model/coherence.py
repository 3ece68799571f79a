"""
When an entry may be served: by comparing revisions and by nothing else (ADR 0003).

For every tag this knows the newest revision that touched it, learnt from the origin's change stream. An entry that was
read at revision r is valid exactly when none of its tags was touched after r. So it does not matter in which order
answers and changes arrive, or how often a change is told: a slow answer that was read before a write carries a revision
older than the write's, and is invalid from the moment it comes in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

# Above this many tags what is known collapses into one number, the floor.
_MOST_TAGS = 200_000


class Coherence:
    """
    What is known of one origin's changes. Everything in (floor, applied] is known tag by tag; what was read before the
    floor cannot be judged and is invalid.

    Args:
        bound: how old what is known may be, in seconds, before nothing is served any more.
        most_tags: how many tags are kept apart.
        nested: whether names have slashes in them, so that a change of a/b is one of a, too.
        clock: in seconds, for tests.

    Attributes:
        bound: as given.
        applied: every revision up to this one is known.
        epoch: that these revisions are of, as the stream says; empty before it has, and with an origin that does not.
        floor: what was read before this revision is invalid.
    """

    __slots__ = (
        "_clock",
        "_heard",
        "_most_tags",
        "_nested",
        "_newest_subtree",
        "_subtrees",
        "_touched",
        "applied",
        "bound",
        "epoch",
        "floor",
    )

    def __init__(
        self,
        *,
        bound: float = 2.0,
        most_tags: int = _MOST_TAGS,
        nested: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.applied = 0
        self.floor = 0
        self.epoch = b""
        self.bound = bound
        self._clock = clock
        self._most_tags = most_tags
        self._nested = nested
        self._heard = float("-inf")
        self._touched: dict[str, int] = {}
        self._subtrees: dict[str, int] = {}
        self._newest_subtree = 0

    def apply(self, revision: int, changes: Iterable[tuple[str, bool]]) -> None:
        """
        Take in one revision.

        Args:
            revision: its number; one that is known already changes nothing.
            changes: the resources that it changed, and whether everything below changed with each.
        """
        self.touch(revision, changes)
        self.applied = max(self.applied, revision)
        if len(self._touched) + len(self._subtrees) > self._most_tags:
            self.reset(self.applied)

    def touch(self, revision: int, changes: Iterable[tuple[str, bool]]) -> None:
        """
        Take in changes of a revision that is known otherwise than from the stream: others before it may still come.
        """
        for resource, subtree in changes:
            for prefix in prefixes(resource) if self._nested else (resource,):
                if self._touched.get(prefix, 0) < revision:
                    self._touched[prefix] = revision
            if subtree and self._subtrees.get(resource, 0) < revision:
                self._subtrees[resource] = revision
                self._newest_subtree = max(self._newest_subtree, revision)

    def heard(self, applied: int, at: float) -> None:
        """
        The stream says that nothing is missing up to *applied*.

        Args:
            at: the time at which that was the newest revision, or one before it: what this knows is from then.
        """
        self.applied = max(self.applied, applied)
        self._heard = max(self._heard, at)

    def reset(self, head: int) -> None:
        """
        Forget the tags: what was read before *head* is invalid from now on.
        """
        self._touched.clear()
        self._subtrees.clear()
        self._newest_subtree = 0
        self.applied = self.floor = head

    @property
    def age(self) -> float:
        """
        How old what this knows is, in seconds: everything that was committed before is known. Infinite before the
        stream has told.
        """
        return self._clock() - self._heard

    @property
    def live(self) -> bool:
        """
        Whether what this knows is new enough to serve anything.
        """
        return self._clock() - self._heard <= self.bound

    def valid(self, revision: int, tags: Sequence[str]) -> bool:
        """
        Whether an answer with *tags* that was read at *revision* is still what the origin would say, as far as known.
        """
        if revision < self.floor:
            return False
        touched = self._touched
        if any(touched.get(tag, 0) > revision for tag in tags):
            return False
        return self._newest_subtree <= revision or not self._below_a_newer_subtree(revision, tags)

    def newest(self, tags: Sequence[str]) -> int:
        """
        The newest revision that is known to have touched *tags*: what is read below it is invalid already.
        """
        newest = max((self._touched.get(tag, 0) for tag in tags), default=0)
        if self._newest_subtree > newest:
            newest = max(newest, *(self._subtrees.get(prefix, 0) for tag in tags for prefix in prefixes(tag)), 0)
        return max(newest, self.floor)

    def reaches(self, minimum: int, revision: int) -> bool:
        """
        Whether a valid answer read at *revision* is known to reflect *minimum*.
        """
        return minimum <= self.applied or minimum <= revision

    def _below_a_newer_subtree(self, revision: int, tags: Sequence[str]) -> bool:
        return any(self._subtrees.get(prefix, 0) > revision for tag in tags for prefix in prefixes(tag))


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
