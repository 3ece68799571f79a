"""
Read replicas: which of them may answer a read, and which are left out because they lag or do not answer.

A replica answers a read when it is known to have applied the revision that the caller asks for. What it has applied is
learnt from its own responses and by polling. Outdated knowledge can only send a read to the primary that a replica
could have answered, never the other way round: what was learnt counts from when it was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.serving.background import beside, every
from services.ledger.store.servers import Server
from services.ledger.store.statements import HEAD, read

_HEAD = read("revision.head", f"SELECT value AS head FROM {HEAD}")  # noqa: S608 - only constants are interpolated
_REFRESH_SECONDS = 0.25
_POLL_SECONDS = 1.0
# How long a replica is excluded after a failure; the next refresh may include it again.
_EXCLUDED_SECONDS = 1.0
_NEVER = float("-inf")

#: The time in seconds, from any start.
Clock = Callable[[], float]

_log = logging.getLogger(__name__)


class Primary:
    """
    History of the primary's head, from which the lag of a replica in seconds is computed.

    Measured with this process's clock: the servers' clocks may differ. A poll proves what the primary had when the poll
    began, and nothing about the time since: a process that is stopped or starved polls late.

    Args:
        most_lag: seconds that a replica may be behind and still serve: the history covers them.
        clock: the time.
    """

    def __init__(self, most_lag: float, clock: Clock) -> None:
        self._clock = clock
        # The newest revisions that polls have shown, oldest first, each with the time since when it may have existed:
        # the start of the poll before. Polls are at least half of their average interval apart.
        kept = max(4096, int(most_lag / _REFRESH_SECONDS * 2) + 2)
        self._heads: deque[tuple[float, int]] = deque(maxlen=kept)
        # When the newest poll began that showed the last of them.
        self._asked = _NEVER
        self._failing = False

    async def poll(self, server: Server) -> None:
        """
        Query the head of the primary.
        """
        asked = self._clock()
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                row = await server.fetch_row(_HEAD, ())
        except (ModelyardError, TimeoutError):
            # A primary that does not answer has no new revisions: its replicas go on serving what they have. A single
            # failure proves nothing: this process may have been stopped in the middle of the poll.
            if self._failing and self._heads:
                self._asked = asked
            self._failing = True
            return
        self._failing = False
        if row is not None:
            self._saw(row["head"], asked)

    def _saw(self, revision: int, asked: float) -> None:
        if self._heads and revision < self._heads[-1][1]:
            # Restored to an earlier state: forget the history.
            self._heads.clear()
        if not self._heads:
            self._heads.append((_NEVER, revision))
        elif revision > self._heads[-1][1]:
            self._heads.append((self._asked, revision))
        self._asked = asked

    def covered_by(self, applied: int) -> float:
        """
        The latest time of which is known that everything committed by then is part of the revision *applied*.
        """
        covered = self._asked
        for since, revision in reversed(self._heads):
            if revision <= applied:
                break
            covered = since
        return covered


class Replica:
    """
    One replica.

    Args:
        primary: the history of its primary.
        most_lag: seconds that it may be behind and still serve.
        clock: the time.

    Attributes:
        applied: the newest revision that it is known to have applied.
    """

    def __init__(self, server: Server, primary: Primary, most_lag: float, clock: Clock) -> None:
        self.server = server
        self.applied = 0
        self._primary = primary
        self._most_lag = most_lag
        self._clock = clock
        self._answers = False
        self._excluded_until = _NEVER
        # As of the last refresh, for the log.
        self._served = False

    @property
    def lag(self) -> float:
        """
        Seconds that it is behind the primary, at most: it grows while nobody looks. Infinite until it has reached the
        first revision of the primary that this process has seen.
        """
        return self._clock() - self._primary.covered_by(self.applied)

    @property
    def serving(self) -> bool:
        """
        Whether reads may go to it now.
        """
        return self._answers and self.lag <= self._most_lag

    def saw(self, revision: int) -> None:
        """
        Record that a response of this replica reflected *revision*.
        """
        self.applied = max(self.applied, revision)

    def failed(self, error: BaseException) -> None:
        """
        Record a failure: exclude the replica for a while.
        """
        if self._served:
            _log.warning("%s is excluded from reads: %s", self.server.name, error)
        self._answers = self._served = False
        # It may come back as another server, restored from long ago.
        self.applied = 0
        self._excluded_until = self._clock() + _EXCLUDED_SECONDS

    async def refresh(self) -> None:
        """
        Query its applied revision.
        """
        if self._clock() < self._excluded_until:
            return
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                row = await self.server.fetch_row(_HEAD, ())
        except (ModelyardError, TimeoutError) as error:
            self.failed(error or Unavailable("DATABASE_UNAVAILABLE", "it does not answer"))
            return
        self.applied = row["head"] if row is not None else 0
        self._answers = True
        lag, serves = self.lag, self.serving
        if serves != self._served:
            _log.info(
                "%s %s, %.1f s behind", self.server.name, "serves reads" if serves else "is excluded from reads", lag
            )
        self._served = serves


class Replicas:
    """
    The replicas of one primary.

    Args:
        servers: the replicas.
        most_lag: seconds that one may be behind and still serve.
        clock: the time.
    """

    def __init__(self, servers: Sequence[Server], most_lag: float, clock: Clock = time.monotonic) -> None:
        self._primary = Primary(most_lag, clock)
        self.all = [Replica(server, self._primary, most_lag, clock) for server in servers]
        self._turn = 0

    def pick(self, least: int) -> Replica | None:
        """
        The next replica that serves and is known to have applied the revision *least*; None when there is none.
        """
        for _ in self.all:
            self._turn = (self._turn + 1) % len(self.all)
            replica = self.all[self._turn]
            if replica.applied >= least and replica.serving:
                return replica
        return None

    @asynccontextmanager
    async def watching(self, primary: Server) -> AsyncIterator[None]:
        """
        Poll the primary and all replicas while the block runs, each by itself: one that is slow delays no other.

        Args:
            primary: with connections that are free when those for calls are exhausted. Without a connection it would
                look like a primary that is away.
        """
        look = partial(self.poll_primary, primary)
        await asyncio.gather(look(), *(replica.refresh() for replica in self.all))
        async with beside(
            every(_REFRESH_SECONDS, look, "look at the primary"),
            *(every(_REFRESH_SECONDS, replica.refresh, "look at the replicas") for replica in self.all),
        ):
            yield

    async def poll_primary(self, primary: Server) -> None:
        """
        Query the primary's head.
        """
        await self._primary.poll(primary)
