"""
How a worker and the launcher that started it talk: one JSON object per line over a pair of sockets.

The worker says `ready` or `failed`; the launcher says `drain`. The launcher's end closes when the launcher ends,
however it ends: that is how a worker learns that it is an orphan.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

VARIABLE = "MODELYARD_CHASSIS_ASSIGNMENT"
_PR_SET_PDEATHSIG = 1
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """
    What a worker is told by its launcher.

    Args:
        program: the name of what runs, "services.registry".
        module: where its composition root is, "services.registry.__main__".
        compose: the name of the composition root in it.
        settings: "module:class" of its settings.
        host: "envoy" or "grpcio".
        index: of the worker, from 0.
        control: file descriptor of the worker's end of the pair.
        log: file descriptor of where the launcher's own output goes; 2 is caught, to be shown when the worker fails.
        folder: for what has to be a file while the worker runs; removed with it.
        drain_delay: seconds between NOT_SERVING and the end of new calls.
    """

    program: str
    module: str
    compose: str
    settings: str
    host: str
    index: int
    control: int
    log: int
    folder: str
    drain_delay: float

    def environment(self) -> dict[str, str]:
        """
        The variables that carry it.
        """
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Assignment:
        """
        The assignment of this process.

        Raises:
            RuntimeError: it was not started by a launcher.
        """
        raw = environ.get(VARIABLE)
        if raw is None:
            raise RuntimeError("this module is run by the chassis's launcher: start the service itself")
        return cls(**json.loads(raw))


class Control:
    """
    The worker's end.

    Args:
        assignment: of this process.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._socket = socket.socket(fileno=assignment.control)
        self._folder = Path(assignment.folder)
        self._on_drain: Callable[[], None] = lambda: None

    def attend(self, loop: AbstractEventLoop, on_drain: Callable[[], None]) -> None:
        """
        Call *on_drain* when the launcher says so, and end this process when the launcher is gone.
        """
        _die_with_parent()
        self._socket.setblocking(False)
        self._on_drain = on_drain
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._read)

    def ready(self) -> None:
        """
        Say that calls are served.
        """
        self._say({"event": "ready"})

    def failed(self, message: str) -> None:
        """
        Say why this worker cannot start.
        """
        self._say({"event": "failed", "message": message})

    def _say(self, what: Mapping[str, str]) -> None:
        try:
            self._socket.sendall(json.dumps(what).encode() + b"\n")
        except OSError:
            return  # nobody is left to tell; the reader deals with that

    def _read(self) -> None:
        try:
            said = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if b"drain" in said:
            self._on_drain()
        if not said:
            self._loop.remove_reader(self._socket.fileno())
            self._orphaned()

    def _orphaned(self) -> None:
        _log.warning("the launcher is gone: this worker ends too")
        shutil.rmtree(self._folder, ignore_errors=True)
        # Politely first, so that connections are closed; a thread makes sure of it.
        killer = threading.Timer(_PATIENCE, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
        os.kill(os.getpid(), signal.SIGTERM)


def _die_with_parent() -> None:
    # For a worker whose loop is blocked for ever, and so will not read that the launcher is gone. Linux only; elsewhere
    # the socket has to do.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
