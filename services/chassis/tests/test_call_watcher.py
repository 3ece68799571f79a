"""
How often the Envoy host asks whether clients are still there, by a clock of the test's own.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from services.chassis.hosts.call import Call
from services.chassis.hosts.call_watcher import CallWatcher


class Clock:
    """
    The part of an event loop that a pulse needs, whose time is that of the next timer.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """
        In seconds.
        """
        return self.now

    def call_later(self, seconds: float, do: Callable[[], None]) -> None:
        """
        Do it then.
        """
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), do))

    def run(self, until: float) -> None:
        """
        Let the time go by.
        """
        while self._timers and self._timers[0][0] <= until:
            self.now, _, do = heapq.heappop(self._timers)
            do()
        self.now = until


class Quiet:
    """
    A call whose client says nothing. It remembers when it was asked about.
    """

    def __init__(self, clock: Clock, asked: list[tuple[float, Any]]) -> None:
        self.closed = self.probing = False
        self.request_ended = True
        self.gone = False
        self._clock, self._asked = clock, asked

    def settle(self, _loop: object) -> None:
        """
        It has no deadline.
        """

    def receive(self) -> Any:
        """
        pyvoy's answer, at once.
        """
        self._asked.append((self._clock.now, self))
        return _Answered({"type": "http.disconnect" if self.gone else "http.request"})

    def lost(self) -> None:
        """
        The client is gone.
        """
        self.closed = True


class _Answered:
    def __init__(self, event: dict[str, str]) -> None:
        self._event = event

    def cancelled(self) -> bool:
        return False

    def result(self) -> dict[str, str]:
        return self._event

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


def watched(count: int) -> tuple[Clock, list[Quiet], list[tuple[float, Any]]]:
    """
    A pulse with as many quiet calls.
    """
    clock, asked = Clock(), list[tuple[float, Any]]()
    pulse = CallWatcher(cast(asyncio.AbstractEventLoop, clock))
    calls = [Quiet(clock, asked) for _ in range(count)]
    for call in calls:
        pulse.add(cast(Call, call), None)
    return clock, calls, asked


def test_many_quiet_calls_are_never_asked_about_together() -> None:
    """
    However many there are, one turn of the loop asks about a few, and all of them together cost no more than a small
    part of the process's time; each is asked about again and again.
    """
    clock, calls, asked = watched(8000)
    clock.run(240)
    turns = Counter(when for when, _ in asked)
    assert max(turns.values()) <= 10
    assert len(asked) / 240 <= 1000
    last = {call: when for when, call in asked}
    assert len(last) == len(calls)
    assert min(last.values()) >= 240 - 16


def test_one_call_is_asked_about_soon_and_then_more_rarely() -> None:
    """
    A disconnect of a new call is noticed within 0.1 s, and of a call that has been idle for long, within 16 s.
    """
    clock, (call,), asked = watched(1)
    clock.run(1)
    assert asked[0][0] <= 0.1
    clock.run(600)
    assert all(later - earlier <= 16 for (earlier, _), (later, _) in itertools.pairwise(asked))
    seen = len(asked)
    assert seen <= 100
    call.gone = True
    clock.run(616)
    assert call.closed
    clock.run(700)
    assert len(asked) == seen + 1
