"""
Every call has an end, known to all that runs below it (see `services.chassis.deadlines`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from services.chassis.deadlines import FOREVER, ends_at, exceeded
from services.chassis.interceptors.base import CallInterceptor, Observer
from services.chassis.serving.calls import Kind, Method
from services.chassis.serving.context import Context


class DeadlineInterceptor(CallInterceptor):
    """
    End unary calls whose client set no deadline, and let everything below know how much time is left.

    The host enforces the client's own deadline. Streams without one may run for ever: uploads, change streams.

    Args:
        default: seconds for a unary call without a deadline. It is cut at most a sixteenth later (see `Cutter`).
    """

    def __init__(self, default: float) -> None:
        self._default = default
        self._cutter = Cutter(default)

    def observe(self, method: Method) -> Observer:
        """
        An observer that keeps the deadline of the calls of *method*.
        """
        if method.kind is Kind.UNARY_UNARY:
            return _Capped(self._default, self._cutter)
        return _Uncapped()


class Slot:
    """
    The calls that started at about the same time, and end together if they do not end by themselves.
    """

    __slots__ = ("expired", "opened", "tasks")

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.expired = False
        self.tasks: set[asyncio.Task[Any]] = set()

    def expire(self) -> None:
        """
        Cancel what is still running.
        """
        self.expired = True
        for task in self.tasks:
            task.cancel()


class Cutter:
    """
    Cancels tasks after a fixed time: one timer for all calls of a moment, because a timer per call costs over 1 µs.

    Args:
        after: seconds. A task is cancelled a sixteenth of it (at most a second) later than that, or earlier by nothing.
    """

    __slots__ = ("_after", "_slot", "_width")

    def __init__(self, after: float) -> None:
        self._after = after
        self._width = min(1.0, after / 16)
        self._slot = Slot(-FOREVER)

    def enter(self, task: asyncio.Task[Any], now: float) -> Slot:
        """
        Start the clock of *task*. Leave with `slot.tasks.discard(task)`.
        """
        slot = self._slot
        if now - slot.opened >= self._width:
            slot = self._slot = Slot(now)
            asyncio.get_running_loop().call_later(self._after + self._width, slot.expire)
        slot.tasks.add(task)
        return slot


class _Uncapped:
    __slots__ = ()

    def begin(self, context: Context) -> Any:
        left = context.time_remaining()
        if left is None or left == FOREVER:
            ends_at(FOREVER)
            return None
        if left <= 0:
            raise exceeded()
        ends_at(time.monotonic() + left)
        return None

    def end(self, _context: Context, _state: Any) -> None:
        return None

    async def fail(self, _context: Context, _state: Any, _error: BaseException) -> None:
        return None


class _Capped:
    __slots__ = ("_cutter", "_default")

    def __init__(self, default: float, cutter: Cutter) -> None:
        self._default = default
        self._cutter = cutter

    def begin(self, context: Context) -> tuple[Slot, asyncio.Task[Any]] | None:
        left = context.time_remaining()
        now = time.monotonic()
        if left is not None and left != FOREVER:
            if left <= 0:
                raise exceeded()
            ends_at(now + left)
            return None
        ends_at(now + self._default)
        task = asyncio.current_task()
        return None if task is None else (self._cutter.enter(task, now), task)

    def end(self, _context: Context, state: tuple[Slot, asyncio.Task[Any]] | None) -> None:
        if state is not None:
            slot, task = state
            slot.tasks.discard(task)

    async def fail(self, _context: Context, state: tuple[Slot, asyncio.Task[Any]] | None, error: BaseException) -> None:
        if state is None:
            return
        slot, task = state
        slot.tasks.discard(task)
        if slot.expired and isinstance(error, asyncio.CancelledError):
            task.uncancel()
            raise exceeded() from error
