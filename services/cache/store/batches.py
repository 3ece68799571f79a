"""
Batches concurrent gets into shared round trips.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from services.cache.store.valkey import Refused, Unreachable, Valkey
from services.chassis.serving.background import begin

_log = logging.getLogger(__name__)

# Concurrent round trips, and keys per round trip. Measured by `make bench-cache`, docs/adr/0013.
_LANES = 2
_MOST_KEYS = 64

_Batch = list[tuple[bytes, asyncio.Future[bytes | None]]]


class BatchedGets:
    """
    Gets values: requests that arrive while all lanes are busy share the next round trip.

    A cancelled caller does not cancel the round trip, so that answers cannot be mixed up between callers. In a cluster,
    a batch is for one server: see `ShardedGets`.

    Args:
        valkey: where the values are.
    """

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes | None]]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()

    async def get(self, key: bytes) -> bytes | None:
        """
        The value of *key*; None when there is none.

        Raises:
            Unreachable, Refused: as `Valkey.run`.
        """
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, answer))
        if len(self._lanes) < _LANES:
            self._lanes.add(begin(self._work()))
        return await answer

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._answer(batch)
        finally:
            # Without an await after the queue was found empty: a later request starts a new lane.
            # (A done callback would run later, and a request in between would wait forever.)
            self._lanes.discard(asyncio.current_task())

    async def _answer(self, batch: _Batch) -> None:
        try:
            values = await self._values([key for key, _ in batch])
            if not isinstance(values, list) or len(values) != len(batch):
                self._valkey.malformed(batch[0][0])
                raise Unreachable("the answer does not match the request")
        except (Unreachable, Refused) as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - on any error, all waiting callers must be answered
            _log.exception("unexpected error in a round trip to valkey")
            _fail(batch, Unreachable(f"unexpected: {error!r}"))
        except BaseException:
            _fail(batch, Unreachable("the process is shutting down"))
            raise
        else:
            for (_, answer), value in zip(batch, values, strict=True):
                if not answer.done():
                    answer.set_result(value if isinstance(value, bytes) else None)

    def _next(self) -> _Batch:
        """
        The next batch, without cancelled requests.
        """
        batch: _Batch = []
        while self._waiting and len(batch) < _MOST_KEYS:
            key, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((key, answer))
        return batch

    async def _values(self, keys: list[bytes]) -> list[Any]:
        if len(keys) == 1:
            return [await self._valkey.run(lambda client: client.get(keys[0]), key=keys[0])]
        if self._valkey.cluster:
            return await self._valkey.run(lambda client: _pipelined(client, keys), key=keys[0])
        found: list[Any] = await self._valkey.run(lambda client: client.mget(keys), key=keys[0])
        return found


def _fail(batch: _Batch, error: Unreachable | Refused) -> None:
    for _, answer in batch:
        if not answer.done():
            # A separate instance for each caller, because raising it extends its traceback.
            answer.set_exception(type(error)(*error.args))


class ShardedGets:
    """
    `BatchedGets` per server of a cluster, so that a server that does not answer delays only the reads of its own keys.

    Args:
        valkey: where the values are.
    """

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._gets: dict[str, BatchedGets] = {}

    async def get(self, key: bytes) -> bytes | None:
        """
        The value of *key*; None when there is none.

        Raises:
            Unreachable, Refused: as `Valkey.run`.
        """
        shard = self._valkey.shard(key)
        gets = self._gets.get(shard)
        if gets is None:
            gets = self._gets[shard] = BatchedGets(self._valkey)
        return await gets.get(key)


async def _pipelined(client: Any, keys: list[bytes]) -> list[Any]:
    pipeline = client.pipeline()
    for key in keys:
        pipeline.get(key)
    found: list[Any] = await pipeline.execute(raise_on_error=False)
    return found
