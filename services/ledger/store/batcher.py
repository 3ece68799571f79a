"""
Micro-batching: point reads that arrive together go to the database as one statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Batcher(Generic[Key, Value]):
    """
    Turn concurrent `get(key)` calls into few `load(keys)` calls.

    A lone call is sent at once. While *in_flight* loads run, later calls gather and go together as the next load, so
    batches grow with the load and no call waits for a timer (the method of a DataLoader; Nagle's idea, RFC 896,
    without its delay). A call only ever joins a load that has not been sent yet: what it reads was read after it asked.

    Args:
        load: reads the values of distinct keys, in their order.
        in_flight: how many loads run at the same time.
        most: how many keys one load takes.
    """

    __slots__ = ("_free", "_load", "_loop", "_most", "_scheduled", "_tasks", "_waiting")

    def __init__(
        self,
        load: Callable[[Sequence[Key]], Awaitable[Sequence[Value]]],
        *,
        in_flight: int = 2,
        most: int = 256,
    ) -> None:
        self._load = load
        self._free = in_flight
        self._most = most
        self._waiting: dict[Key, list[asyncio.Future[Value]]] = {}
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: Key) -> Value:
        """
        The value of *key*.

        Raises:
            Exception: the load's error; every call of the batch gets it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._free and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        self._scheduled = False
        while self._waiting and self._free:
            keys = list(self._waiting)[: self._most]
            batch = {key: self._waiting.pop(key) for key in keys}
            self._free -= 1
            task = asyncio.ensure_future(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: dict[Key, list[asyncio.Future[Value]]]) -> None:
        try:
            values = await self._load(list(batch))
            answers = list(zip(batch.values(), values, strict=True))
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, who get it here
            for future in _waiting(batch):
                future.set_exception(error)
        except BaseException:
            for future in _waiting(batch):
                future.cancel()
            raise
        else:
            for futures, value in answers:
                for future in futures:
                    if not future.done():
                        future.set_result(value)
        finally:
            self._free += 1
            self._send()


def _waiting(batch: dict[Key, list[asyncio.Future[Value]]]) -> list[asyncio.Future[Value]]:
    # A caller that gave up has cancelled its future; the others still want their answer.
    return [future for futures in batch.values() for future in futures if not future.done()]
