"""
Warm-up: loads the most-read answers of the last run into L1.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc

from services.cache.model.coherence import Coherence
from services.cache.model.hot_keys import HotKeys
from services.cache.read_through.handler import ReadThrough
from services.cache.store.hot_keys import HotStore
from services.chassis.errors import FailedPrecondition
from services.chassis.serving.background import Work, begin, end, every

_log = logging.getLogger(__name__)

_SAVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """
    The result of a warm-up.

    Args:
        loaded: answers loaded from the origin.
        skipped: answers that were cached already, or that the origin did not return.
    """

    loaded: int
    skipped: int


class Warmer:
    """
    Warms up L1, and saves the hot keys for the next warm-up.

    Args:
        reads: the read-through handlers, by RPC path.
        coherence: of the origin; before it is live, no loaded entry could be served.
        hot: the hot keys of this process.
        store: persists hot keys across restarts.
        most_keys: default number of keys of one warm-up.
        rate: default origin calls per second.
    """

    def __init__(
        self,
        reads: Mapping[str, ReadThrough],
        coherence: Coherence,
        hot: HotKeys,
        store: HotStore,
        *,
        most_keys: int,
        rate: int,
    ) -> None:
        self._reads = reads
        self._coherence = coherence
        self._hot = hot
        self._store = store
        self._most_keys = most_keys
        self._rate = rate
        self._running = False

    @asynccontextmanager
    async def working(self, patience: float) -> AsyncIterator[None]:
        """
        Warm up and save the hot keys for as long as the block lasts.

        Args:
            patience: seconds to wait for the warm-up before entering the block.
        """
        first = begin(Work("warm-up").once(self._first))
        saving = begin(every(_SAVE_SECONDS, self._save_and_age, "save hot keys"))
        try:
            await asyncio.wait({first}, timeout=patience)
            yield
        finally:
            for task in (first, saving):
                await end(task)
            await self._save()

    async def warm(self, key_count: int = 0, rate: int = 0) -> Warmed:
        """
        Load the most-read keys, one after the other.

        Args:
            key_count: how many; 0 for the setting.
            rate: origin calls per second; 0 for the setting.

        Raises:
            FailedPrecondition: a warm-up is running.
        """
        if self._running:
            raise FailedPrecondition("WARMING", "a warm-up is running: wait for it to end")
        self._running = True
        try:
            mine = [key for key, _ in self._hot.top()]
            keys = list(dict.fromkeys([*mine, *await self._store.load()]))[: key_count or self._most_keys]
            return await self._load(keys, rate or self._rate)
        finally:
            self._running = False

    async def _load(self, keys: list[bytes], rate: int) -> Warmed:
        loaded = skipped = 0
        began = time.monotonic()
        for key in keys:
            called = await self._load_one(key)
            if called:
                loaded += 1
                await asyncio.sleep(began + loaded / rate - time.monotonic())
            else:
                skipped += 1
        return Warmed(loaded, skipped)

    async def _load_one(self, key: bytes) -> bool | None:
        path, _, request = key.partition(b"\0")
        try:
            read = self._reads.get(path.decode())
            return read is not None and await read.warm(request)
        except grpc.aio.AioRpcError:
            return None
        except Exception as error:  # noqa: BLE001 - keys come from arbitrary requests; one bad key must not end the warm-up
            _log.debug("a key could not be warmed up: %r", error)
            return None

    async def _first(self) -> None:
        if not await self._store.load():
            return
        while not self._coherence.live:  # noqa: ASYNC110 - becomes live by the clock, which signals no event
            await asyncio.sleep(0.02)
        began = time.monotonic()
        with suppress(FailedPrecondition):
            warmed = await self.warm()
            took = time.monotonic() - began
            _log.info("warmed up: %d loaded, %d skipped, in %.1f s", warmed.loaded, warmed.skipped, took)

    async def _save_and_age(self) -> None:
        await self._save()
        self._hot.age()

    async def _save(self) -> None:
        if top := self._hot.top():
            await self._store.save(top)
