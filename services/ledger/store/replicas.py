"""
Read replicas: which of them may answer a read, and which are left out because they lag or do not answer.

A replica answers a read when it is known to have applied the revision that the caller asks for. What it has applied is
learnt from its own responses and by polling. Outdated knowledge can only send a read to the primary that a replica
could have answered, never the other way round.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.serving.background import beside, every
from services.ledger.store.servers import Server
from services.ledger.store.statements import HEAD, read

_HEAD = read("revision.head", f"SELECT value AS head FROM {HEAD}")  # noqa: S608 - only constants are interpolated
_REFRESH_SECONDS = 0.25
# How long a replica is excluded after a failure; the next refresh may include it again.
_EXCLUDED_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Replica:
    """
    One replica.

    Attributes:
        applied: the newest revision that it is known to have applied.
        lag: seconds that it is behind the primary, as of the last refresh.
        serving: whether reads may go to it.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.applied = 0
        self.lag = 0.0
        self.serving = False
        self._excluded_until = 0.0

    def saw(self, revision: int) -> None:
        """
        Record that a response of this replica reflected *revision*.
        """
        self.applied = max(self.applied, revision)

    def failed(self, error: BaseException) -> None:
        """
        Record a failure: exclude the replica for a while.
        """
        if self.serving:
            _log.warning("%s is excluded from reads: %s", self.server.name, error)
        self.serving = False
        # It may come back as another server, restored from long ago.
        self.applied = 0
        self._excluded_until = time.monotonic() + _EXCLUDED_SECONDS

    async def refresh(self, primary: Primary, most_lag: float) -> None:
        """
        Query its applied revision and lag, and decide whether it may serve.
        """
        if time.monotonic() < self._excluded_until:
            return
        try:
            async with asyncio.timeout(_EXCLUDED_SECONDS):
                row = await self.server.fetch_row(_HEAD, ())
        except (ModelyardError, TimeoutError) as error:
            self.failed(error or Unavailable("DATABASE_UNAVAILABLE", "it does not answer"))
            return
        self.applied = row["head"] if row is not None else 0
        self.lag = primary.lag_of(self.applied)
        serves = self.lag <= most_lag
        if serves != self.serving:
            _log.info(
                "%s %s, %.1f s behind",
                self.server.name,
                "serves reads" if serves else "is excluded from reads",
                self.lag,
            )
        self.serving = serves


class Primary:
    """
    History of the primary's head, from which a replica's lag in seconds is computed.

    Measured with this process's clock: the servers' clocks may differ.
    """

    def __init__(self) -> None:
        # When each revision was first seen, oldest first.
        self._heads: deque[tuple[float, int]] = deque(maxlen=4096)

    def saw(self, revision: int) -> None:
        """
        Record that the primary's head is *revision*.
        """
        if not self._heads or revision > self._heads[-1][1]:
            self._heads.append((time.monotonic(), revision))
        elif revision < self._heads[-1][1]:
            # Restored to an earlier state: forget the history.
            self._heads.clear()
            self._heads.append((time.monotonic(), revision))

    def lag_of(self, applied: int) -> float:
        """
        How many seconds ago the primary was first seen past *applied*; 0 when it has not been.
        """
        for moment, revision in self._heads:
            if revision > applied:
                return time.monotonic() - moment
        return 0.0


class Replicas:
    """
    The replicas of one primary.

    Args:
        servers: the replicas.
        most_lag: seconds that one may be behind and still serve.
    """

    def __init__(self, servers: Sequence[Server], most_lag: float) -> None:
        self.all = [Replica(server) for server in servers]
        self._most_lag = most_lag
        self._primary = Primary()
        self._turn = 0

    def pick(self, least: int) -> Replica | None:
        """
        The next replica that serves and is known to have applied the revision *least*; None when there is none.
        """
        for _ in self.all:
            self._turn = (self._turn + 1) % len(self.all)
            replica = self.all[self._turn]
            if replica.serving and replica.applied >= least:
                return replica
        return None

    @asynccontextmanager
    async def watching(self, primary: Server) -> AsyncIterator[None]:
        """
        Poll all replicas while the block runs.
        """
        await self._refresh(primary)
        async with beside(every(_REFRESH_SECONDS, partial(self._refresh, primary), "look at the replicas")):
            yield

    async def _refresh(self, primary: Server) -> None:
        # A primary that does not answer has no new revisions: its replicas go on serving what they have.
        with contextlib.suppress(ModelyardError, TimeoutError):
            async with asyncio.timeout(_EXCLUDED_SECONDS):
                row = await primary.fetch_row(_HEAD, ())
                if row is not None:
                    self._primary.saw(row["head"])
        await asyncio.gather(*(replica.refresh(self._primary, self._most_lag) for replica in self.all))
