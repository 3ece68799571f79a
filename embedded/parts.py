"""
What the supervisor runs: one process each, as a value.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


class EmbeddedError(Exception):
    """
    The suite cannot start or go on. The message says what is wrong and what to do.
    """


@dataclass(frozen=True, slots=True)
class Part:
    """
    A process of the suite.

    Args:
        name: what people call it; also the name of its log file.
        argv: what to run.
        ready: returns when it serves, and raises as long as it does not; None means it is ready when it has ended
            with status 0.
        needs: names of the parts that must be ready before.
        environment: added to ours.
        user: the id of the user to run as; None means ours.
        stop_signal: asks it to end, having finished what is under way.
        patience: seconds until it is killed when it does not end.
        hint: what to do when it does not start, for people.
        folder: where it runs; None means where we do.
        bare: its environment is all that it has, and nothing is added from ours.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], None] | None
    needs: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    stop_signal: int = signal.SIGTERM
    patience: float = 20.0
    start_patience: float = 60.0
    hint: str = ""
    folder: Path | None = None
    bare: bool = False


def as_user(user: int | None, argv: Sequence[str]) -> list[str]:
    """
    The command line that runs *argv* as the user with that id; None means as ourselves.
    """
    if user is None:
        return list(argv)
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("as_user.py")), str(user), *argv]


def listening(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """
    A readiness check: something accepts connections.
    """

    def check() -> None:
        socket.create_connection((host, port), timeout=1).close()

    return check


def free_port() -> int:
    """
    A loopback port that nobody listens on, and that no other process which asks here gets while this one lives.

    Below the ports that systems give to outgoing connections, and never the same one twice in a process: whoever asks
    for one does not bind it at once, or starts again what had it, and it must not come round meanwhile.
    """
    return next(port for port in _ports if take(port))


def take(port: int) -> bool:
    """
    Take a loopback port for this process, if it is free and nobody has taken it.
    """
    if port in _taken or not is_free(port):
        return False
    try:
        # A byte of the file for each port: the system releases it when the process ends, however it ends.
        fcntl.lockf(_register(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _taken.add(port)
    return True


@cache
def _register() -> int:
    # Never closed: that would give up every lock on it.
    path = Path(tempfile.gettempdir()) / f"modelyard-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


_taken: set[int] = set()
# From a place by chance, so that two processes seldom ask for the same one.
_FIRST, _LAST = 15_000, 32_000
_ports = itertools.cycle(
    _FIRST + (start + step) % (_LAST - _FIRST)
    for start in [random.SystemRandom().randrange(_LAST - _FIRST)]
    for step in range(_LAST - _FIRST)
)


def is_free(port: int) -> bool:
    """
    Whether nobody listens on a loopback port. Connections of an earlier listener that are still closing do not hold it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def socket_file(folder: Path, name: str) -> Path:
    """
    Where a socket goes that nobody else may reach: into *folder*, or where its path would be too long for one,
    into a folder of its own that goes with this process.
    """
    inside = folder.absolute() / name
    if len(str(inside).encode()) <= LONGEST_SOCKET:
        return inside
    own = tempfile.TemporaryDirectory(prefix="modelyard-")
    _own_folders.append(own)
    return Path(own.name) / name


#: Of sockaddr_un on macOS; on Linux it is 107.
LONGEST_SOCKET = 103
_own_folders: list[tempfile.TemporaryDirectory[str]] = []


def secret_file(path: Path, make: Callable[[], str]) -> str:
    """
    The secret in *path*; made, and readable by its owner only, when there is none.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make())
    return path.read_text().strip()
