"""
Enforces deadlines and detects disconnected clients, at negligible cost for short calls.

A timer, and a question to Envoy, per call would cost more than the call itself. So a call is put into a list, and only
if it is still there one or two ticks later does it get its timer, and is Envoy asked now and then whether its client
is still there. (After the end of a request, `receive` of pyvoy 1.3 does not wait for a disconnect: it answers at once,
with one if there was one. Seen in src/asgi/filter.rs and in a run.)
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Protocol

from services.chassis.hosts.context import Event

_TICK = 0.01
# Asking about a call takes four hand-overs between threads. So many are asked about in one turn of the loop, and turns
# are so far apart, however many calls there are: thousands that are asked about together would hold up all others.
_SLICE = 10
_PAUSE = 0.01
# A call is asked about soon after it has settled, and then ever more rarely, in proportion to its age: a stream that
# has been quiet for an hour is not likely to end in this moment.
_FIRST = 0.05
_GROWTH = 1.5
_MOST = 15.0


class WatchedCall(Protocol):
    """
    The part of a call that its watcher needs.

    Attributes:
        closed: whether it has ended.
        request_ended: whether its request has been received completely.
        probing: whether Envoy is being asked whether the client is still connected.
    """

    closed: bool
    request_ended: bool
    probing: bool

    def settle(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def receive(self) -> asyncio.Future[Event]: ...

    def lost(self) -> None: ...

    def shut(self) -> None: ...


class CallWatcher:
    """
    Watches the calls of one process.

    Args:
        loop: that the calls run on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self._loop = loop
        self._young: list[WatchedCall] = []
        self._older: list[WatchedCall] = []
        # By when they are asked about next: (when, number, pause, call).
        self._settled: list[tuple[float, int, float, WatchedCall]] = []
        self._numbers = itertools.count()
        self._ticking = False
        self._probing = False

    def add(self, call: WatchedCall, timeout: float | None) -> None:
        """
        Watch *call* until it is closed.

        Args:
            timeout: seconds to its deadline. A near one is enforced to the millisecond.
        """
        if timeout is not None and timeout <= 2 * _TICK:
            call.settle(self._loop)
        self._young.append(call)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK, self._tick)

    def calls(self) -> list[WatchedCall]:
        """
        The calls in progress.
        """
        settled = (call for *_, call in self._settled)
        return [call for call in (*self._young, *self._older, *settled) if not call.closed]

    def _tick(self) -> None:
        for call in self._older:
            if not call.closed:
                call.settle(self._loop)
                self._ask_later(call, _FIRST)
        self._older, self._young = self._young, []
        self._ticking = bool(self._older)
        if self._ticking:
            self._loop.call_later(_TICK, self._tick)
        self._probe_later()

    def _ask_later(self, call: WatchedCall, pause: float) -> None:
        heapq.heappush(self._settled, (self.time() + pause, next(self._numbers), pause, call))

    def _probe_later(self) -> None:
        if self._settled and not self._probing:
            self._probing = True
            self._loop.call_later(max(_PAUSE, self._settled[0][0] - self.time()), self._probe)

    def _probe(self) -> None:
        self._probing = False
        now, asked = self.time(), 0
        while self._settled and self._settled[0][0] <= now and asked < _SLICE:
            _, _, pause, call = heapq.heappop(self._settled)
            if call.closed:
                continue
            if call.request_ended and not call.probing:
                asked += 1
                call.probing = True
                call.receive().add_done_callback(_Answer(call))
            self._ask_later(call, min(pause * _GROWTH, _MOST))
        self._probe_later()


class _Answer:
    __slots__ = ("_call",)

    def __init__(self, call: WatchedCall) -> None:
        self._call = call

    def __call__(self, answer: asyncio.Future[Event]) -> None:
        self._call.probing = False
        if not answer.cancelled() and answer.result()["type"] == "http.disconnect":
            self._call.lost()
