"""
Clients in a process of their own, for what only a process shows: signals, exit codes, and kills.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# The handler is set explicitly: a process that was started in the background of a shell inherits an ignored SIGINT, and
# so do its children. The line says that the start of Python, which is not what is to be interrupted, is over.
_CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import modelyard.cli.main
{prepare}
print("started", flush=True)
sys.argv[0] = "modelyard"
modelyard.cli.main.program()
"""
_SCALE_DOWN = "from tests.client.limits import scale_down; scale_down()"


def interruptible(*arguments: str, scaled: bool = False, **options: Any) -> subprocess.Popen[str]:
    """
    Start `modelyard` with *arguments*, and wait until its main function begins, unless its output is no pipe. SIGINT
    interrupts it, also where this process ignores SIGINT.

    Args:
        scaled: whether the client's limits are scaled down.
        options: of `subprocess.Popen`, in place of pipes.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE.format(prepare=_SCALE_DOWN if scaled else ""), *arguments],
        cwd=ROOT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **{**pipes, **options},
    )
    if process.stdout is not None:
        assert process.stdout.readline() == "started\n"
    return process


def transfer(target: str, call: str) -> subprocess.Popen[bytes]:
    """
    Start a process that makes one call with a client whose limits are scaled down.

    Args:
        target: where the client connects to.
        call: the method with its arguments, as Python source text.
    """
    script = f"import modelyard; {_SCALE_DOWN}; modelyard.connect({target!r}).{call}"
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """
    Let this process write no file beyond *size* bytes, as if the disk were full. Python ignores SIGXFSZ, so that a
    write fails with EFBIG.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
