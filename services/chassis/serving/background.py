"""
Background tasks.

Every task is started here: a task that nobody awaits ends silently when an unexpected exception is raised in it. Use
`Work` for what must keep running, `Chores` for one-off work that nobody awaits, and `begin` for the rest.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.chassis.errors import ModelyardError

_log = logging.getLogger(__name__)

#: Initial and maximum retry delay in seconds.
Retry = tuple[float, float]
_RETRY: Retry = (1.0, 60.0)
_AGAIN_SECONDS = 1.0
_MOST_DOUBLINGS = 30


@dataclass(slots=True)
class Standing:
    """
    The state of a background task.

    Args:
        failures: how many times it has failed.
        succeeded: when it succeeded last, or began, in seconds since 1970.
    """

    failures: int = 0
    succeeded: float = field(default_factory=time.time)


_standings: dict[str, Standing] = {}


def standings() -> Mapping[str, Standing]:
    """
    The state of all background tasks, by name, for Prometheus.
    """
    return _standings


class OverdueError(Exception):
    """
    Work in the background has not succeeded for longer than it may; the text says for how long.
    """


class Work:
    """
    A task that must go on, whatever happens: a failure is logged and counted, and it is tried again, later each time.

    Args:
        task: its name, the label of `modelyard_background_failures_total`: "fetch-keys".
        doing: what it is, for the log: "fetch the keys that sign tokens". The name in words unless it is given.
        retry: seconds before the first new attempt, and at the most; doubled each time, with jitter, so that processes
            that failed together do not come again together.
        bound: seconds that it may go without a success before `ping` says so; None for as long as it likes.

    Attributes:
        pause: seconds to wait after the attempt that failed last.
    """

    def __init__(self, task: str, doing: str = "", *, retry: Retry = _RETRY, bound: float | None = None) -> None:
        self._doing = doing or task.replace("-", " ")
        self._retry = retry
        self._bound = bound
        self._standing = _standings.setdefault(task, Standing())
        self._in_a_row = 0
        self._last: type[BaseException] | None = None
        self.pause = 0.0
        self._since = time.monotonic()

    @property
    def age(self) -> float:
        """
        Seconds since it has succeeded; since it was made, if it never did.
        """
        return time.monotonic() - self._since

    @property
    def failing(self) -> bool:
        """
        Whether its last attempt failed.
        """
        return self._in_a_row > 0

    async def ping(self) -> None:
        """
        For `Health.depends_on`: the process is not ready while this is overdue.

        Raises:
            OverdueError: it has not succeeded for longer than its bound.
        """
        if self._bound is not None and self.age > self._bound:
            raise OverdueError(f"could not {self._doing} for {self.age:.0f} s")

    def succeeded(self) -> None:
        """
        It did what it is for.
        """
        self._in_a_row = 0
        self._last = None
        self._since = time.monotonic()
        self._standing.succeeded = time.time()

    def failed(self, error: BaseException) -> float:
        """
        It did not.

        Returns:
            Seconds to wait before the next attempt.
        """
        self._standing.failures += 1
        self._in_a_row += 1
        # Another error, and the 1st, 2nd, 4th, 8th … in a row: what fails all day does not fill the log.
        another, self._last = type(error) is not self._last, type(error)
        if another or self._in_a_row & (self._in_a_row - 1) == 0:
            self._tell(error, another=another)
        first, most = self._retry
        pause = min(first * 2.0 ** min(self._in_a_row - 1, _MOST_DOUBLINGS), most)
        return pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret

    async def forever(
        self, turn: Callable[[], Awaitable[object]], *, pause: float = 0.0, first: float | None = None
    ) -> None:
        """
        Do *turn* over and over. One that returns has succeeded.

        Args:
            turn: what is done. Something that lasts, such as reading a stream, returns when it has come to its end.
            pause: seconds from the end of one turn that succeeded to the next, on average.
            first: seconds before the first turn, on average; *pause* unless it is given.
        """
        await asyncio.sleep(_about(pause if first is None else first))
        while True:
            done = await self.attempt(turn)
            await asyncio.sleep(_about(pause) if done else self.pause)

    async def once(self, turn: Callable[[], Awaitable[object]]) -> None:
        """
        Do *turn* until it has succeeded.
        """
        while not await self.attempt(turn):  # noqa: ASYNC110 - it is not waiting for an event, but doing the work
            await asyncio.sleep(self.pause)

    async def attempt(self, turn: Callable[[], Awaitable[object]]) -> bool:
        """
        Do *turn* once.

        Returns:
            Whether it succeeded.
        """
        try:
            await turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may succeed
            self.pause = self.failed(error)
            return False
        self.succeeded()
        return True

    def _tell(self, error: BaseException, *, another: bool) -> None:
        why = str(error) or type(error).__name__
        row = "" if self._in_a_row == 1 else f", {self._in_a_row} times in a row"
        if isinstance(error, ModelyardError | OSError):  # with OSError: TimeoutError
            _log.warning("could not %s%s: %s", self._doing, row, why)
        else:
            _log.error("could not %s, by mistake%s: %s", self._doing, row, why, exc_info=error if another else None)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """
    Do *works* while the block lasts; then cancel those that have not ended and wait for them.

    Nobody awaits them before the end: when a mistake ends one of them, that is logged as an error at once.
    """
    tasks = [begin(work) for work in works]
    try:
        yield
    finally:
        await asyncio.gather(*map(end, tasks))


async def every(
    seconds: float,
    work: Callable[[], Awaitable[object]],
    doing: str,
    *,
    task: str | None = None,
    first: float | None = None,
) -> None:
    """
    Do *work* now and then, for ever. An error is logged and counted, and *work* is done again, later each time that it
    fails in a row: up to a minute, where it is not done more rarely anyway.

    Args:
        seconds: from the end of one turn to the next, on average: several processes never do it at the same moment.
        doing: what it is, for the log: "sweep".
        task: its name for metrics; made of *doing* unless it is given.
        first: seconds before the first turn, on average; *seconds* unless it is given.
    """
    retry = (min(seconds, 60.0), min(max(seconds, 60.0), 16 * seconds))
    await Work(task or doing.replace(" ", "-"), doing, retry=retry).forever(work, pause=seconds, first=first)


def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """
    Do *work* in a task of its own, which its caller keeps and ends with `end`. What it raises is logged at once.
    """
    task = asyncio.create_task(work)
    # The event loop holds tasks weakly.
    _begun.add(task)
    task.add_done_callback(_ended)
    return task


async def end(task: asyncio.Task[Any] | None) -> None:
    """
    Cancel *task* and wait until it has ended; what it raises is lost.

    It is asked again when it goes on: a library in between may take the cancellation for its own time-out.
    """
    if task is None:
        return
    while not task.done():
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
        if not done:
            _log.warning("%s goes on although it was cancelled: it is asked again", task)


class Chores:
    """
    Work that nobody waits for, such as what is left to do when a call has ended. What it raises is logged and counted.

    Args:
        task: their name, as of a `Work`.
    """

    def __init__(self, task: str) -> None:
        self._standing = _standings.setdefault(task, Standing())
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, work: Coroutine[Any, Any, Any]) -> None:
        """
        Start *work*.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def finish(self, seconds: float | None = None) -> None:
        """
        Wait for all of them, up to *seconds*; then cancel the rest.
        """
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            if not task.cancelled():
                self._standing.succeeded = time.time()
            return
        self._standing.failures += 1
        if isinstance(error, ModelyardError):
            # The database or the object store is away.
            _log.warning("work in the background was given up: %s", error)
        else:
            _log.error("work in the background failed: %s", error, exc_info=error)


_begun: set[asyncio.Task[Any]] = set()
#: What `begin` started and should not have ended.
_BEGUN = "begun"


def _ended(task: asyncio.Task[Any]) -> None:
    _begun.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _standings.setdefault(_BEGUN, Standing()).failures += 1
        _log.error("work in the background has ended: %s", error, exc_info=error)


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
