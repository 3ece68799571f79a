"""
A worker process: composes the service and serves it, until its launcher tells it to drain.

Run by the launcher: `python -m services.chassis.serving.worker` for the grpcio host and the HTTP host. On
the Envoy host, `hosts/entry.py` does the same within Envoy.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import uvloop

from services.chassis.observability import logs
from services.chassis.observability.metrics import Metrics
from services.chassis.observability.span_export import export_spans
from services.chassis.serving.control_channel import VARIABLE, Assignment, Control
from services.chassis.serving.server import Server
from services.chassis.settings import CommonSettings, SettingsError, load

if TYPE_CHECKING:
    from services.chassis.hosts.grpcio import GrpcioHost
    from services.chassis.hosts.http import HttpHost

_log = logging.getLogger(__name__)


@asynccontextmanager
async def composed(assignment: Assignment) -> AsyncIterator[Server]:
    """
    The service that *assignment* names, ready to be served.
    """
    settings = load(settings_class(assignment.settings))
    logs.setup(
        settings.log_format,
        settings.log_level,
        fields={"program": assignment.program, "worker": assignment.index},
    )
    metrics = Metrics(assignment.program, assignment.host)
    compose = getattr(importlib.import_module(assignment.module), assignment.compose)
    async with export_spans(settings.otlp_endpoint, assignment.program, assignment.index) as spans:
        server = Server(settings, metrics, spans)
        with metrics.serve(settings.metrics, server.health):
            async with compose(server), server.ready():
                # What was made so far stays: the garbage collector need not look at it over and over while calls wait.
                gc.collect()
                gc.freeze()
                yield server


def settings_class(where: str) -> type[CommonSettings]:
    """
    The class that "module:class" names.
    """
    module, _, name = where.partition(":")
    found: type[CommonSettings] = getattr(importlib.import_module(module), name)
    return found


def take_over(assignment: Assignment) -> Control:
    """
    Make this process a worker: what it prints goes where the launcher prints.

    File descriptor 2 stays with what Envoy and C libraries write, which the launcher shows only if the worker fails.
    """
    os.environ.pop(VARIABLE, None)
    # A launcher that was killed no longer reads what is written to 2; that alone must not cut the end short.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.stdout = sys.stderr = os.fdopen(assignment.log, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    return Control(assignment)


def explain(error: BaseException) -> str:
    """
    What is wrong and what to do about it, for the one line that a failed start prints.
    """
    if isinstance(error, SettingsError):
        return str(error)
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return explain(error.exceptions[0])
    text = str(error) or "no further details"
    return f"{type(error).__name__}: {text}"


async def serve(assignment: Assignment, control: Control) -> int:
    """
    Serve gRPC with grpcio, or HTTP, until drained.

    Returns:
        The exit status.
    """
    drain, hurry = asyncio.Event(), asyncio.Event()

    def end_now() -> None:
        hurry.set()
        drain.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end_now)
    control.on_drain(loop, drain.set)
    try:
        async with composed(assignment) as server:
            host = _host(server)
            await host.start()
            control.ready()
            await drain.wait()
            server.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), assignment.drain_delay)
            draining = asyncio.create_task(host.drain(server.settings.drain_seconds))
            hurrying = asyncio.create_task(hurry.wait())
            await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
            if hurry.is_set():
                await host.drain(0)
            await draining
    except Exception as error:  # noqa: BLE001 - the launcher prints it, in one line
        _log.debug("cannot serve", exc_info=error)
        control.failed(explain(error))
        return 1
    return 0


def _host(server: Server) -> HttpHost | GrpcioHost:
    # A process needs one of them, and imports no more.
    if server.app is not None:
        from services.chassis.hosts.http import HttpHost

        return HttpHost(server.app, server.settings, server.identity)
    from services.chassis.hosts.grpcio import GrpcioHost

    return GrpcioHost(server.handlers, server.settings, server.recorders, server.identity)


def main() -> int:
    """
    Run the assignment of this process.
    """
    assignment = Assignment.read()
    control = take_over(assignment)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(assignment, control))


if __name__ == "__main__":
    sys.exit(main())
