"""
Who took the processor: this process and what it started, or somebody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

from bench.foreign import Foreign, Watch, families, family_seconds

_SPIN = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_what_we_started_is_ours() -> None:
    """
    Processor time of a child's child counts as that of the family while it runs and after it has ended.
    """
    before = family_seconds(os.getpid())
    subprocess.run(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_SPIN!r}])"], check=True
    )
    assert family_seconds(os.getpid()) - before >= 0.5


def test_what_others_started_is_foreign() -> None:
    """
    A process that does not descend from this one is seen in the machine's time and not in the family's.
    """
    watch = Watch()
    before = family_seconds(os.getpid())
    # Its parent ends at once, so that it belongs to init.
    orphan = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {_SPIN!r}]).pid)"
    pid = int(subprocess.run([sys.executable, "-c", orphan], capture_output=True, check=True).stdout)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
    own, foreign, seconds = family_seconds(os.getpid()) - before, watch.so_far(), time.monotonic() - watch._began.at
    assert own < 0.45
    assert foreign.cores * seconds >= 0.45


def test_a_quiet_machine() -> None:
    """
    A tenth of the cores may go to others and a twentieth to other machines; the load average is told alone.
    """
    assert Foreign(0.2, 0.1, 99.0, 2).quiet
    assert not Foreign(0.21, 0.0, 0.0, 2).quiet
    assert not Foreign(0.0, 0.11, 0.0, 2).quiet
    assert "FOREIGN LOAD" in str(Foreign(0.21, 0.0, 0.0, 2))


def test_who_is_gone_is_left_out() -> None:
    """
    A part that was killed has no figure, rather than nought.
    """
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert families([("gone", ended.pid)]) == {}
