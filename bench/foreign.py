"""
What else the machine did while a bench ran: its figures say nothing where somebody else took the processor.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

#: Shares of all cores, beyond which there is no verdict.
MOST_FOREIGN = 0.10
MOST_STOLEN = 0.05


@dataclass(frozen=True, slots=True)
class Foreign:
    """
    What others took, on average.

    Args:
        cores: that processes took which this one did not start.
        stolen: cores that the hypervisor gave to other machines.
        load_average: of the minute before the bench began; it counts what waits, and is told but not judged.
        of: cores that there are.
    """

    cores: float
    stolen: float
    load_average: float
    of: int

    @property
    def quiet(self) -> bool:
        """
        Whether the figures are the bench's own.
        """
        return self.cores <= MOST_FOREIGN * self.of and self.stolen <= MOST_STOLEN * self.of

    def __str__(self) -> str:
        told = (
            f"other processes took {self.cores:.2f} of {self.of} cores, the hypervisor {self.stolen:.2f}; "
            f"load average before the start {self.load_average:.2f}"
        )
        return told if self.quiet else f"FOREIGN LOAD, so there is no verdict: {told}"


@dataclass(frozen=True, slots=True)
class Clock:
    """
    Processor time so far, in seconds.

    Args:
        at: by a clock that only goes forward.
        busy: of the whole machine in processes.
        stolen: by the hypervisor.
        own: of this process and all that it started, directly or not.
    """

    at: float
    busy: float
    stolen: float
    own: float

    @classmethod
    def read(cls) -> Clock:
        """
        Now.
        """
        # What it costs to deliver packets (irq, softirq) is in no process: the traffic is ours.
        machine = psutil.cpu_times()
        busy = machine.user + machine.system + getattr(machine, "nice", 0.0)
        return cls(time.monotonic(), busy, getattr(machine, "steal", 0.0), family_seconds(os.getpid()))


class Watch:
    """
    Begins with its making.
    """

    def __init__(self) -> None:
        self._load_average = os.getloadavg()[0]
        self._began = self._last = Clock.read()

    def so_far(self) -> Foreign:
        """
        Since the beginning.
        """
        return self._between(self._began, Clock.read())

    def since_last(self) -> Foreign:
        """
        Since this was asked last.
        """
        before, self._last = self._last, Clock.read()
        return self._between(before, self._last)

    def _between(self, before: Clock, after: Clock) -> Foreign:
        seconds = max(after.at - before.at, 1e-3)
        own = after.own - before.own
        cores = max(0.0, after.busy - before.busy - own) / seconds
        return Foreign(cores, (after.stolen - before.stolen) / seconds, self._load_average, os.cpu_count() or 1)


def family_seconds(pid: int) -> float:
    """
    CPU time of a process and of all its descendants, running or ended, in seconds; 0 if there is no such process.
    """
    return families([("", pid)]).get("", 0.0)


def families(pids: Iterable[tuple[str, int]]) -> dict[str, float]:
    """
    `family_seconds` by name, without processes that do not exist. The processes of the machine are listed once.
    """
    children: dict[int, list[psutil.Process]] = defaultdict(list)
    running: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            children[process.ppid()].append(process)
            running[process.pid] = process
    found: dict[str, float] = {}
    for name, pid in pids:
        left = [running[pid]] if pid in running else []
        family: list[psutil.Process] = []
        while left:
            family.append(process := left.pop())
            left += children[process.pid]
        found[name] = sum(map(_seconds, family))
    return {name: seconds for name, seconds in found.items() if seconds}


def _seconds(process: psutil.Process) -> float:
    try:
        # Those that ended are counted by whoever waited for them.
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0
