"""
An event loop with a virtual clock that stands still while any task can run, and then jumps to the next timer. A run is
fast, and follows from its seed alone.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

_EPOCH = 1_000_000.0


class DeadlockError(Exception):
    """
    No task can run, and no timer is pending.
    """


class _Idle(selectors.BaseSelector):
    """
    No file is ever ready; waiting advances the clock.
    """

    def __init__(self) -> None:
        self.now = _EPOCH
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = key = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("every task waits for another one")
        self.now += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    The event loop. Its time replaces `time.time` and `time.monotonic`, see `run`.
    """

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        """
        Virtual seconds.
        """
        return self._idle.now


@contextmanager
def _clocks(loop: VirtualLoop) -> Iterator[None]:
    with (
        mock.patch.object(time, "time", loop.time),
        mock.patch.object(time, "monotonic", loop.time),
    ):
        yield


def run(work: Coroutine[Any, Any, None], seed: int) -> None:
    """
    Run *work* in virtual time, and cancel the tasks that it left running.

    Args:
        seed: of the module `random`, which the code under test uses as well.
    """
    loop, before = VirtualLoop(), random.getstate()
    random.seed(seed)
    try:
        with _clocks(loop):
            try:
                loop.run_until_complete(work)
            finally:
                _end(loop)
    finally:
        random.setstate(before)
        loop.close()


def _end(loop: VirtualLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
