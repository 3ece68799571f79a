"""
The service within Envoy: pyvoy imports `app` from here, in a process that the launcher started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from services.chassis.hosts import envoy
from services.chassis.hosts.admin import Admin
from services.chassis.hosts.asgi import GrpcApp
from services.chassis.hosts.call_watcher import CallWatcher
from services.chassis.hosts.context import Receive, Scope, Send
from services.chassis.serving.background import Chores
from services.chassis.serving.control_channel import Assignment, Control
from services.chassis.serving.server import Server
from services.chassis.serving.worker import composed, explain, take_over
from services.chassis.settings import Address

_log = logging.getLogger(__name__)

# How often a drain looks whether the last connection is gone.
_LOOK = 0.02


class Worker:
    """
    The ASGI application of a worker: `lifespan` composes the service, everything else is a call.

    Args:
        assignment: the assignment of this process.
        control: the control channel to the launcher.
    """

    def __init__(self, assignment: Assignment, control: Control) -> None:
        self._assignment = assignment
        self._control = control
        self._admin = Admin(Path(assignment.folder, "admin.sock"))
        self._chores = Chores("worker")
        self._serve: GrpcApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request, or the lifespan of the process.
        """
        if self._serve is not None:
            await self._serve(scope, receive, send)
        else:
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            # The launcher does this too, unless it was killed.
            stack.callback(shutil.rmtree, self._assignment.folder, ignore_errors=True)
            try:
                server = await stack.enter_async_context(composed(self._assignment))
                loop = asyncio.get_running_loop()
                pulse = CallWatcher(loop)
                self._serve = GrpcApp(server.handlers, server.settings.max_message_bytes, pulse, server.recorders)
                self._control.on_drain(loop, lambda: self._chores.add(self._drain(server, pulse)))
                self._chores.add(self._announce(server.settings.listen))
            except Exception as error:  # noqa: BLE001 - the launcher prints it, in one line
                _log.debug("cannot start", exc_info=error)
                self._control.failed(explain(error))
                await send({"type": "lifespan.startup.failed", "message": "see the launcher"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _announce(self, listen: Address) -> None:
        # Envoy listens some time after the lifespan has started, and says so to nobody.
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(listen.host, listen.port)
                writer.close()
                self._control.ready()
                return
            await asyncio.sleep(_LOOK)

    async def _drain(self, server: Server, pulse: CallWatcher) -> None:
        loop = asyncio.get_running_loop()
        server.drain()
        await asyncio.sleep(self._assignment.drain_delay)
        end = loop.time() + server.settings.drain_seconds
        try:
            await self._admin.drain()
            await self._wait_for_connections(end)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process has to end
            _log.warning("draining without Envoy's help: %s", error, exc_info=not isinstance(error, OSError))
        for call in pulse.calls():
            call.shut()
        await asyncio.sleep(_LOOK)  # for their last bytes to leave
        os.kill(os.getpid(), signal.SIGTERM)

    async def _wait_for_connections(self, end: float) -> None:
        # A connection without a call may get one at any time. Envoy closes each after its last GOAWAY, which tells the
        # client which of its calls were not served.
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            if not await self._admin.connections():
                return
            await asyncio.sleep(_LOOK)


def _make() -> Worker:
    assignment = Assignment.read()
    # The copy in C's environment is what child processes of C libraries would see; os.environ keeps both in step.
    envoy.forget_environment(os.environ)
    return Worker(assignment, take_over(assignment))


app = _make()
