"""
The control channel between a launcher and its worker: one JSON object per line over a socket pair.

The worker says `ready` or `failed`; the launcher says `drain`. The launcher's end closes when the launcher ends,
however it ends: that is how a worker learns that it is an orphan.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

_log = logging.getLogger(__name__)

VARIABLE = "MODELYARD_CHASSIS_ASSIGNMENT"
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
        folder: for what has to be a file while the worker runs; removed with it. Empty if there is none.
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
    The worker's end. Listens in a thread of its own, which a blocked event loop does not stop.

    Args:
        assignment: of this process.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._socket = socket.socket(fileno=assignment.control)
        self._folder = assignment.folder
        self._drain = threading.Event()
        self._on_drain: Callable[[], None] | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def on_drain(self, loop: AbstractEventLoop, call: Callable[[], None]) -> None:
        """
        Call *call* in *loop* when the launcher says drain, or now if it has.
        """
        with self._lock:
            self._on_drain = lambda: _call_soon(loop, call)
            if self._drain.is_set():
                self._on_drain()

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
        with suppress(OSError):  # nobody is left to tell; the thread deals with that
            self._socket.sendall(json.dumps(what).encode() + b"\n")

    def _listen(self) -> None:
        while said := self._receive():
            if b"drain" in said:
                with self._lock:
                    self._drain.set()
                    if self._on_drain is not None:
                        self._on_drain()
        self._orphaned()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(4096)
        except OSError:
            return b""

    def _orphaned(self) -> None:
        _log.warning("the launcher has died: this worker shuts down")
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        # SIGTERM first, and only once: a second one kills an Envoy that is shutting down.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)


def _call_soon(loop: AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the process ends anyway
        loop.call_soon_threadsafe(call)
