"""
Statistics of calls by second and by scenario.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.ghz import percentile
from bench.run.generators import Call

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
#: Server errors, as opposed to client errors.
FAULTS = {"Unknown", "DeadlineExceeded", "Internal", "Unavailable", "DataLoss"}
#: The minimum number of calls beyond a percentile; with fewer, the percentile is noise.
BEYOND = 5
_CALM_SECONDS = 3
_AS_BEFORE = 1.5


@dataclass(frozen=True, slots=True)
class Window:
    """
    One second: when it began, counted from the run's beginning; its calls, errors and percentiles in milliseconds.
    """

    second: int
    calls: int
    errors: int
    p50: float
    p95: float
    p99: float

    def as_json(self) -> dict[str, float | int | None]:
        """
        For the report: a percentile of too few calls is None.
        """
        said: dict[str, float | int | None] = {"second": self.second, "calls": self.calls, "errors": self.errors}
        for name, value in (("p50", self.p50), ("p95", self.p95), ("p99", self.p99)):
            said[name] = value if self.calls - self.errors >= enough(SHARES[name]) else None
        return said


@dataclass(slots=True)
class CallStats:
    """
    Statistics of the calls of one scenario.
    """

    ms: array[float] = field(default_factory=lambda: array("f"))
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def add(self, call: Call) -> None:
        """
        Count a call. Errors have no latency: one that fails at once would look fast.
        """
        self.codes[call.status] += 1
        if call.status == "OK":
            self.ms.append(call.ms)

    @property
    def calls(self) -> int:
        """
        All of them.
        """
        return self.codes.total()

    @property
    def errors(self) -> int:
        """
        Those that did not end OK.
        """
        return self.calls - self.codes["OK"]

    def percentiles(self) -> dict[str, float]:
        """
        From all calls that ended OK, in milliseconds: those with at least BEYOND calls beyond them; the slowest call as
        `max`; nothing when there are none.
        """
        ordered = sorted(self.ms)
        if not ordered:
            return {}
        told = {name: share for name, share in SHARES.items() if len(ordered) >= enough(share)}
        return {name: percentile(ordered, share) for name, share in told.items()} | {"max": ordered[-1]}


def enough(share: float) -> int:
    """
    Calls that a percentile needs: 10 for p50, 100 for p95, 5,000 for p99.9.

    Args:
        share: of the calls below it, 0 to 1.
    """
    return math.ceil(round(BEYOND / (1 - share), 6))


class Record:
    """
    All calls of a run.

    Args:
        began: in seconds since 1970.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.by_scenario: dict[str, CallStats] = {}
        self._seconds: dict[int, CallStats] = {}

    def add(self, scenario: str, calls: Iterable[Call]) -> None:
        """
        Add calls, in any order.
        """
        taken = self.by_scenario.setdefault(scenario, CallStats())
        for call in calls:
            taken.add(call)
            self._seconds.setdefault(math.floor(call.at - self.began), CallStats()).add(call)

    def windows(self) -> list[Window]:
        """
        Every second from the first call to the last; one without calls is there, too.
        """
        if not self._seconds:
            return []
        return [_window(second, self._seconds.get(second)) for second in range(max(self._seconds) + 1)]


def _window(second: int, taken: CallStats | None) -> Window:
    if taken is None:
        return Window(second, 0, 0, 0.0, 0.0, 0.0)
    ordered = sorted(taken.ms)
    p50, p95, p99 = (percentile(ordered, SHARES[name]) if ordered else 0.0 for name in ("p50", "p95", "p99"))
    return Window(second, taken.calls, taken.errors, p50, p95, p99)


def merged(taken: Iterable[CallStats]) -> CallStats:
    """
    The merged statistics of several scenarios.
    """
    whole = CallStats()
    for each in taken:
        whole.ms.extend(each.ms)
        whole.codes.update(each.codes)
    return whole


def recovery(windows: Sequence[Window], from_second: float, since: float = 0.0) -> float | None:
    """
    Seconds from *from_second* until it is as before: three seconds in a row without an error, with calls, and with a
    95th percentile of no more than one and a half times the median of those before. Where a second before had fewer
    than a hundred calls, the 95th percentile is that of a handful of them, and the median is compared in its place.

    Args:
        windows: of the run.
        from_second: when the trouble ended, or began.
        since: when the trouble began; what was before it is the measure. 0 means *from_second*.

    Returns:
        None if it never is, or there was nothing before.
    """
    earlier = [each for each in windows if each.second + 1 <= (since or from_second) and each.calls]
    if not earlier:
        return None
    many = min(each.calls for each in earlier) >= enough(SHARES["p95"])

    def slow(window: Window) -> float:
        return window.p95 if many else window.p50

    before = sorted(map(slow, earlier))
    bound = _AS_BEFORE * before[len(before) // 2]
    calm = 0
    for each in windows:
        if each.second < math.floor(from_second):
            continue
        calm = calm + 1 if each.calls and not each.errors and slow(each) <= bound else 0
        if calm == _CALM_SECONDS:
            return max(0.0, each.second - _CALM_SECONDS + 1 - from_second)
    return None


def slope(samples: Sequence[tuple[float, float]]) -> float | None:
    """
    How much the second number grows when the first one grows by one: least squares. None for less than two points.
    """
    if len(samples) < 2:
        return None
    middle_x = sum(x for x, _ in samples) / len(samples)
    middle_y = sum(y for _, y in samples) / len(samples)
    spread = sum((x - middle_x) ** 2 for x, _ in samples)
    return sum((x - middle_x) * (y - middle_y) for x, y in samples) / spread if spread else None


def as_json(taken: Mapping[str, CallStats]) -> dict[str, object]:
    """
    For the report.
    """
    return {
        name: {"calls": each.calls, "codes": dict(each.codes), "ms": each.percentiles()}
        for name, each in sorted(taken.items())
    }
