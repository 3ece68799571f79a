"""
Deadlines and clients that go away, noticed at next to no cost for calls that end quickly.

A timer, and a question to Envoy, per call would cost more than the call itself. So a call is put into a list, and only
if it is still there one or two ticks later does it get its timer, and is Envoy asked now and then whether its client
is still there. (After the end of a request, `receive` of pyvoy 1.3 does not wait for a disconnect: it answers at once,
with one if there was one. Seen in src/asgi/filter.rs and in a run.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.chassis.hosts.call import Call
    from services.chassis.hosts.context import Event

_TICK = 0.01
_PROBE = 0.05
_PROBES_PER_SECOND = 2000


class Pulse:
    """
    Watches the calls of one process.

    Args:
        loop: that the calls run on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self._loop = loop
        self._young: list[Call] = []
        self._older: list[Call] = []
        self._settled: set[Call] = set()
        self._ticking = False
        self._probing = False

    def add(self, call: Call, timeout: float | None) -> None:
        """
        Watch *call* until it is closed.

        Args:
            timeout: seconds to its deadline. One that is near is kept to the millisecond.
        """
        if timeout is not None and timeout <= 2 * _TICK:
            call.settle(self._loop)
        self._young.append(call)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK, self._tick)

    def calls(self) -> list[Call]:
        """
        The calls in progress.
        """
        return [call for call in (*self._young, *self._older, *self._settled) if not call.closed]

    def _tick(self) -> None:
        for call in self._older:
            if not call.closed:
                call.settle(self._loop)
                self._settled.add(call)
        self._older, self._young = self._young, []
        self._ticking = bool(self._older)
        if self._ticking:
            self._loop.call_later(_TICK, self._tick)
        if self._settled and not self._probing:
            self._probing = True
            self._probe()

    def _probe(self) -> None:
        self._settled = {call for call in self._settled if not call.closed}
        for call in self._settled:
            if call.request_ended and not call.probing:
                call.probing = True
                call.receive().add_done_callback(_Answer(call))
        self._probing = bool(self._settled)
        if self._probing:
            # However many calls there are, asking about them stays a small part of the process's work.
            self._loop.call_later(max(_PROBE, len(self._settled) / _PROBES_PER_SECOND), self._probe)


class _Answer:
    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, answer: asyncio.Future[Event]) -> None:
        self._call.probing = False
        if not answer.cancelled() and answer.result()["type"] == "http.disconnect":
            self._call.lost()
