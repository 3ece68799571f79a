"""
The command line as a process of its own, for what only a process shows: signals and exit codes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# The handler is set explicitly: a process that was started in the background of a shell inherits an ignored SIGINT, and
# so do its children. The line says that the start of Python, which is not what is to be interrupted, is over.
_CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import modelyard.cli.main
print("started", flush=True)
sys.argv[0] = "modelyard"
modelyard.cli.main.program()
"""


def interruptible(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """
    Start `modelyard` with *arguments*; SIGINT interrupts it, also where this process ignores it.

    Args:
        options: of `subprocess.Popen`, in place of pipes.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, *arguments],
        cwd=ROOT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **{**pipes, **options},
    )
    if process.stdout is not None:
        assert process.stdout.readline() == "started\n"
    return process
