"""
The change stream: every revision in order, once, to every watcher.

One task per process reads the log and buffers its end in memory, so that a hundred watchers cost the database no more
than one. NOTIFY wakes the task; it also polls, so that a lost notification only causes a short delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from services.chassis.errors import InvalidArgument, Unavailable
from services.chassis.serving.background import Work, beside
from services.ledger.model.changes import Discontinuity, Event, Heartbeat, Revision
from services.ledger.store.changelog import Changelog
from services.ledger.store.database_errors import CONNECTION_ERRORS, translate_error
from services.ledger.store.pool import Connection

_POLL_SECONDS = 1.0
_POLL_UNNOTIFIED_SECONDS = 0.1
_MOST_KEPT = 20_000
_RETRY = (0.1, 2.0)

_log = logging.getLogger(__name__)


class ChangeFeed:
    """
    Follows the log of changes for the watchers of this process.

    Args:
        log: reads the log.
        connect: opens the LISTEN connection; None to rely on polling alone.
        channel: the NOTIFY channel.
    """

    def __init__(self, log: Changelog, connect: Callable[[], Any] | None, channel: str) -> None:
        self._log = log
        self._connect = connect
        self._channel = channel
        self._head = 0
        # The epoch of the head and of the buffer.
        self._epoch = ""
        self._confirmed = float("-inf")
        self._recent: deque[Revision] = deque()
        self._remembered = 0
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._polling = asyncio.Lock()
        self._closed = False
        self._unnotified = True

    @asynccontextmanager
    async def following(self, draining: asyncio.Event) -> AsyncIterator[None]:
        """
        Follow the log while the block lasts.

        Args:
            draining: ends the watchers' streams when it is set; otherwise they would never end.
        """
        works = [self._follow(), self._close_when(draining)]
        if self._connect is not None:
            works.append(self._listen(self._connect))
        async with beside(*works):
            yield

    async def _close_when(self, draining: asyncio.Event) -> None:
        await draining.wait()
        self._closed = True
        self._notify()

    async def watch(self, start: int, prefix: str, heartbeat: float) -> AsyncGenerator[Event, None]:
        """
        Every revision from *start* on that concerns *prefix*, then new ones as they come.

        Args:
            start: the first revision wanted; 0 means from now on.
            prefix: of the resources; empty means all.
            heartbeat: seconds between heartbeats.

        Raises:
            InvalidArgument: *start* is more than one past the head.
            Unavailable: the database does not answer, so that changes may be missing; or it was restored or replaced.
        """
        began = time.monotonic()
        await self._confirm(0)
        epoch = self._epoch
        if start > self._head + 1:
            raise InvalidArgument.of("start_revision", f"must be at most {self._head + 1}, one past the head")
        sent = start - 1 if start else self._head
        first, beat = True, float("-inf")
        while not self._closed:
            due = time.monotonic() - beat >= heartbeat
            if due:
                await self._confirm(heartbeat)
                await self._check_not_set_back(sent)
            self._check_same(epoch, self._epoch)
            # Once everything up to this head is sent, the watcher is current as of the time when the head was read.
            head, confirmed = self._head, self._confirmed
            found = await self._after(sent, epoch)
            if isinstance(found, Discontinuity):
                yield found
                sent, first, beat = found.head, False, float("-inf")
                continue
            if first and found:
                yield Heartbeat(sent, epoch=epoch)
            first = False
            for revision in found:
                sent = revision.number
                if changes := revision.concerning(prefix):
                    yield Revision(revision.number, revision.commit_time, changes)
            if due and sent >= head:
                yield Heartbeat(sent, max(confirmed - began, 0.0), epoch)
                beat = time.monotonic()
            elif not found:
                await self._wait(sent, beat + heartbeat)

    async def _check_not_set_back(self, sent: int) -> None:
        """
        Raises:
            Unavailable: *sent* was streamed and no longer exists: the database was restored to an earlier state.
        """
        if self._head < sent:
            # Or the watcher has read further than the polling task: poll before failing.
            await self._confirm(0)
        if self._head < sent:
            raise Unavailable("CHANGES_LOST", f"revision {sent} no longer exists: start a new stream", retry_after=1.0)

    @staticmethod
    def _check_same(epoch: str, now: str) -> None:
        """
        Raises:
            Unavailable: the epoch has changed since the stream began.
        """
        if now != epoch:
            raise Unavailable(
                "CHANGES_LOST", "the database has been restored or replaced: start a new stream", retry_after=1.0
            )

    async def _wait(self, sent: int, until: float) -> None:
        news = self._news
        if self._closed or self._head > sent:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                await news.wait()

    async def _after(self, sent: int, epoch: str) -> list[Revision] | Discontinuity:
        if self._head <= sent:
            return []
        if self._recent and self._recent[0].number <= sent + 1:
            newer = itertools.takewhile(lambda revision: revision.number > sent, reversed(self._recent))
            return list(newer)[::-1]
        found = await self._log.after(sent)
        self._check_same(epoch, found.epoch)
        if not found.revisions or found.revisions[0].number != sent + 1:
            return Discontinuity(found.oldest, found.head, epoch)
        return list(found.revisions)

    async def _confirm(self, age: float) -> None:
        """
        Ensure that the known head is at most *age* seconds old; 0 means read after this call began.
        """
        asked = time.monotonic()
        if self._confirmed >= asked - age and age:
            return
        async with self._polling:
            if self._confirmed < asked:
                await self._poll()

    async def _poll(self) -> None:
        while True:
            began = time.monotonic()
            found = await self._log.after(self._head) if self._head else await self._log.end()
            if found.epoch != self._epoch:
                if self._epoch:
                    _log.warning("the database has been restored or replaced: revisions belong to a new epoch")
                self._epoch, self._head, self._remembered = found.epoch, 0, 0
                self._recent.clear()
                self._notify()
                continue
            if found.head < self._head or (found.revisions and found.revisions[0].number != self._head + 1):
                # Restored, or trimmed concurrently: the buffer no longer connects to what follows.
                self._recent.clear()
                self._remembered = 0
            self._remember(found.revisions)
            self._head = found.revisions[-1].number if found.revisions else found.head
            if self._head >= found.head:
                break
            self._notify()
        self._confirmed = began
        self._notify()

    def _remember(self, revisions: tuple[Revision, ...]) -> None:
        for revision in revisions:
            self._recent.append(revision)
            self._remembered += 1 + len(revision.changes)
        while self._remembered > _MOST_KEPT:
            self._remembered -= 1 + len(self._recent.popleft().changes)

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _follow(self) -> None:
        # No reason to report unready: watchers poll and report errors themselves, and the database has a health check.
        work = Work("follow-changes", "follow the changes", retry=_RETRY)
        while True:
            self._wake.clear()
            if not await work.attempt(self._poll_locked):
                await asyncio.sleep(work.pause)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_UNNOTIFIED_SECONDS if self._unnotified else _POLL_SECONDS):
                    await self._wake.wait()

    async def _poll_locked(self) -> None:
        async with self._polling:
            await self._poll()

    async def _listen(self, connect: Callable[[], Any]) -> None:
        async def receive() -> None:
            try:
                await self._receive(await connect())
            except Exception as error:
                if (known := translate_error(error)) is not None:
                    raise known from error
                raise

        # Until then, polling finds the changes.
        await Work("listen-for-changes", retry=(1.0, 10.0)).forever(receive, pause=1.0)

    async def _receive(self, connection: Connection) -> None:
        """
        Listen until the connection ends.
        """
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _connection: ended.set())
        try:
            await connection.add_listener(self._channel, lambda *_: self._wake.set())
            self._unnotified = False
            self._wake.set()
            await ended.wait()
        finally:
            self._unnotified = True
            with contextlib.suppress(*CONNECTION_ERRORS):
                connection.terminate()
