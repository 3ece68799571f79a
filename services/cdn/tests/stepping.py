"""
Runs actors one step at a time in a random order: each waits for its turn before every statement and every request to
the object store.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from services.cdn.model import Span
from services.cdn.store.objects.bucket import Hash, ObjectInfo, Part
from services.cdn.tests.memory_bucket import CopyingBucket
from services.ledger.store.database import Database
from services.ledger.store.pool import Connection, ConnectionLease
from services.ledger.store.servers import Server
from services.ledger.store.statements import Statement

if TYPE_CHECKING:
    from botocore.response import StreamingBody

T = TypeVar("T")

#: The current actor, for the order and for the trace.
actor: ContextVar[str] = ContextVar("actor", default="?")

# Not visible to others: a transaction takes its snapshots and locks later.
_AT_ONCE = {"write.begin"}
_PATIENCE_SECONDS = 20.0


class Steps:
    """
    A scheduler that gives turns to actors.

    Args:
        seed: decides the order.
        sticky: how likely it is that whoever had the last turn has the next one, too.
        slow: how the name of a request begins, such as "delete assets/": the first such is carried out only when
            nobody else can go on. Empty for none.

    Attributes:
        slowed: whose request that is, once it was sent.
        trace: who did what, in order.
        free: nobody waits for turns any more.
    """

    def __init__(self, seed: int, sticky: float, slow: str = "") -> None:
        self._random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._sticky, self._slow = sticky, slow
        self._held: asyncio.Future[None] | None = None
        self.slowed = ""
        self._parked: list[tuple[str, str, asyncio.Future[None]]] = []
        self._running = 0
        self._last = ""
        self._moves = 0
        self.sent: set[asyncio.Task[Any]] = set()
        self.trace: list[str] = []
        self.free = False

    async def turn(self, what: str) -> None:
        """
        Wait for a turn.
        """
        self._moves += 1
        if self.free:
            return
        future = asyncio.get_running_loop().create_future()
        self._parked.append((actor.get(), what, future))
        if self._slow and not self.slowed and what.startswith(self._slow):
            self.slowed, self._held = actor.get(), future
        try:
            await future
        finally:
            self._parked = [each for each in self._parked if each[2] is not future]

    async def statement(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """
        Run *work*, which may wait for a lock, in a turn of its own.
        """
        if what not in _AT_ONCE:
            await self.turn(what)
        self._running += 1
        try:
            return await work()
        finally:
            self._running -= 1
            self._moves += 1

    async def request(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """
        Send a request to the object store: it is carried out in one turn and answered in another one. It is carried out
        even when its caller is cancelled, as by the threads of `S3Executor`.
        """

        async def carry_out() -> T:
            await self.turn(what)
            self._running += 1
            try:
                return await work()
            finally:
                self._running -= 1
                self._moves += 1

        task = asyncio.create_task(carry_out())
        self.sent.add(task)
        task.add_done_callback(self._answered)
        try:
            found = await asyncio.shield(task)
        except Exception:
            await self.turn(f"answer to {what}")
            raise
        await self.turn(f"answer to {what}")
        return found

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self.sent.discard(task)
        if not task.cancelled():
            task.exception()

    def next(self) -> bool:
        """
        Give a turn to one actor. Returns whether any waited.
        """
        if not self._parked:
            return False
        ready = [each for each in self._parked if each[2] is not self._held] or self._parked
        own = [each for each in ready if each[0] == self._last]
        chosen = own[0] if own and self._random.random() < self._sticky else self._random.choice(ready)
        self._last = chosen[0]
        self.trace.append(f"{chosen[0]}: {chosen[1]}")
        chosen[2].set_result(None)
        self._parked.remove(chosen)
        return True

    async def settle(self, waiting: Callable[[], Awaitable[int]], ended: Callable[[], bool]) -> None:
        """
        Wait until every actor waits for a turn or for a lock, or has ended.

        Args:
            waiting: how many statements wait for a lock at this moment.
            ended: whether the actors have.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            moves = self._moves
            for _ in range(10):
                await asyncio.sleep(0)
            if self._running:
                await asyncio.sleep(0.0005)
            quiet = moves == self._moves and (not self._running or self._running == await waiting())
            if quiet and moves == self._moves and (self._parked or ended()):
                return
            if not self._parked:
                await asyncio.sleep(0.001)
            if time.monotonic() > until:
                raise AssertionError(f"nothing moves after {self.trace[-20:]}")

    def release(self) -> None:
        """
        From now on no actor waits for turns.
        """
        self.free = True
        for _, _, future in self._parked:
            if not future.done():
                future.set_result(None)


def acting(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """
    Start an actor.
    """
    token = actor.set(name)
    try:
        return asyncio.create_task(work, name=name)
    finally:
        actor.reset(token)


class SteppedServer(Server):
    """
    A database server whose statements wait for a turn.
    """

    steps: Steps | None = None

    async def on(
        self, connection: Connection, method: Callable[..., Any], statement: Statement, args: Sequence[Any]
    ) -> Any:
        if self.steps is None:
            return await super().on(connection, method, statement, args)
        work = super().on
        return await self.steps.statement(statement.name, lambda: work(connection, method, statement, args))


class SteppedDatabase(Database):
    """
    A database where acquiring a connection waits for a turn, too.
    """

    steps: Steps | None = None

    def connection(self) -> ConnectionLease:
        return _SteppedTaken(self.primary.pool, self.steps) if self.steps else super().connection()


class _SteppedTaken(ConnectionLease):
    __slots__ = ("_steps",)

    def __init__(self, pool: Any, steps: Steps) -> None:
        super().__init__(pool)
        self._steps = steps

    async def __aenter__(self) -> Connection:
        await self._steps.turn("connection")
        return await super().__aenter__()


class SteppedBucket(CopyingBucket):
    """
    A bucket whose requests wait for a turn.

    Args:
        inner: carries them out.
        steps: the turns.
    """

    def __init__(self, inner: CopyingBucket, steps: Steps) -> None:
        self._inner, self._steps = inner, steps

    async def head(self, key: str) -> ObjectInfo:
        return await self._steps.request(f"head {_short(key)}", lambda: self._inner.head(key))

    async def put(
        self, key: str, body: bytes | bytearray, media_type: str, *, encoding: str = "", first: bool = True
    ) -> None:
        whole = bytes(body)
        await self._steps.request(
            f"put {_short(key)}", lambda: self._inner.put(key, whole, media_type, encoding=encoding, first=first)
        )

    async def start(self, key: str, media_type: str) -> str:
        return await self._steps.request(f"start {_short(key)}", lambda: self._inner.start(key, media_type))

    async def send(self, key: str, upload: str, number: int, body: bytearray) -> Part:
        return await self._steps.request(
            f"send {_short(key)} {number}", lambda: self._inner.send(key, upload, number, body)
        )

    async def parts(self, key: str, upload: str) -> list[Part]:
        return await self._steps.request(f"parts {_short(key)}", lambda: self._inner.parts(key, upload))

    async def complete(self, key: str, upload: str, parts: Sequence[Part], *, first: bool = True) -> None:
        await self._steps.request(
            f"complete {_short(key)}", lambda: self._inner.complete(key, upload, parts, first=first)
        )

    async def abort(self, key: str, upload: str) -> None:
        await self._steps.request(f"abort {_short(key)}", lambda: self._inner.abort(key, upload))

    async def copy(self, source: str, key: str, size_bytes: int, media_type: str) -> None:
        await self._steps.request(
            f"copy {_short(source)} to {_short(key)}", lambda: self._inner.copy(source, key, size_bytes, media_type)
        )

    async def delete(self, keys: Sequence[str], *, until: float | None = None) -> None:
        for key in keys:
            await self._delete(key, until)

    async def delete_many(self, keys: Sequence[str], *, until: float | None = None) -> set[str]:
        # Each key is deleted in a step of its own.
        await self.delete(keys, until=until)
        return set()

    async def _delete(self, key: str, until: float | None) -> None:
        await self._steps.request(f"delete {_short(key)}", lambda: self._inner.delete([key], until=until))

    async def open(self, key: str, span: Span) -> StreamingBody:
        return await self._steps.request(f"open {_short(key)}", lambda: self._inner.open(key, span))

    async def read(self, body: StreamingBody, size: int, digest: Hash | None) -> bytes:
        return await self._inner.read(body, size, digest)

    async def close(self) -> None:
        """
        Nothing: the inner bucket is shared.
        """


def _short(key: str) -> str:
    return key if len(key) < 60 else key[:-60]
