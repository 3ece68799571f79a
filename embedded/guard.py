"""
Ends the suite's processes when its supervisor is gone, however it went.

The supervisor holds the other end of standard input and writes what it started and what it stopped, one line each:
`+ PID SIGNAL PATIENCE` and `- PID`; and `~ FILE` for what says that it runs. When the input ends, such files go, and
whatever still runs is asked to end in reverse order, and killed when it does not. A process is only ever signalled
while it is the one that was started: its time of creation is compared, because process ids come round again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Kept:
    """
    A process that was started, and how to end it.
    """

    process: psutil.Process
    stop_signal: int
    patience: float

    def end(self) -> None:
        """
        Ask, wait, kill: the process and what it has started.
        """
        with suppress(psutil.NoSuchProcess):
            family = self.process.children(recursive=True)
            self.process.send_signal(self.stop_signal)
            wait_for_end([self.process], self.patience)
            for member in [self.process, *family]:
                # is_running compares the time of creation.
                if member.is_running():
                    with suppress(psutil.NoSuchProcess):
                        member.kill()


def wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> None:
    """
    Wait until all of them have ended, for some *seconds* at the most.

    Args:
        processes: whosever children. One that has ended stays in the table until whoever inherited it looks, which
            takes seconds with some, and with others does not happen at all.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(map(_has_ended, processes)):
        time.sleep(0.03)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def main() -> None:
    """
    Keep the list until the input ends, then end what is on it.
    """
    # The signals of the terminal and of whoever kills the supervisor's group are not for this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kept: dict[int, Kept] = {}
    notes: list[Path] = []
    for line in sys.stdin:
        if line.startswith("~ "):
            notes.append(Path(line[2:].rstrip("\n")))
            continue
        sign, pid, *how = line.split()
        if sign == "-":
            kept.pop(int(pid), None)
            continue
        with suppress(psutil.NoSuchProcess):
            kept[int(pid)] = Kept(psutil.Process(int(pid)), int(how[0]), float(how[1]))
    # First: the next run may begin before the last process has ended, and has a note of its own then.
    for note in notes:
        note.unlink(missing_ok=True)
    for one in reversed(kept.values()):
        one.end()
    os._exit(0)


if __name__ == "__main__":
    main()
