"""
The parent process of a service: starts its workers, waits until they serve, and ends them all in order.

Nothing is restarted here: a worker that dies ends the service with a clear line, and whatever runs the service
(Kubernetes, systemd, the embedded supervisor) decides what to do.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from services.chassis.observability import logs
from services.chassis.serving.launch_plan import LaunchPlan, StartError, choose_host
from services.chassis.serving.process import Process
from services.chassis.settings import CommonSettings, SettingsError, describe, load

_log = logging.getLogger(__name__)

# Beyond the drain itself: for the service to close what it has opened.
_CLOSING = 10.0
_START_SECONDS = 60.0
_TWICE = 1.0


def main(
    program: str,
    compose: Callable[..., Any],
    *,
    settings: type[CommonSettings] = CommonSettings,
    argv: Sequence[str] | None = None,
) -> None:
    """
    Run a service until SIGTERM or SIGINT, and exit: 0 after a drain, 1 if it could not start or lost a worker, 2 for
    a wrong command line.

    Args:
        program: its name, "services.registry": what its lines and its metrics call it.
        compose: the composition root, an async context manager of the module that calls this.
        settings: the class of its settings.
        argv: in place of the command line.
    """
    arguments = _parse(program, settings, argv)
    try:
        values = load(settings)
        values.check_access()
        logs.setup(values.log_format, values.log_level, fields={"program": program})
        plan = LaunchPlan(
            program=program,
            module=_importable(compose.__module__, program),
            compose=compose.__qualname__,
            settings_class=f"{_importable(settings.__module__, program)}:{settings.__qualname__}",
            settings=values,
            host=choose_host(values.host),
            workers=arguments.workers,
        )
        if arguments.check:
            plan.check()
            sys.stdout.write(f"{program}: the settings are fine, and the ports are free\n")
            sys.exit(0)
        sys.exit(asyncio.run(Launcher(plan).run()))
    except (SettingsError, StartError) as error:
        _log.debug("cannot start", exc_info=error)
        sys.stderr.write(f"{program} cannot start: {error}\n")
        sys.exit(1)


class Launcher:
    """
    Runs the workers of one service.

    Args:
        plan: what to run.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._workers: list[Process] = []
        self._stop = asyncio.Event()
        self._signalled: float | None = None

    async def run(self) -> int:
        """
        Start, serve, drain.

        Returns:
            The exit status.

        Raises:
            StartError: a worker cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            return await self._run()
        finally:
            await self._end(hurry=True)

    async def _run(self) -> int:
        plan = self._plan
        plan.check()
        stop = asyncio.create_task(self._stop.wait())
        for index in range(plan.workers):
            self._workers.append(await Process.start(plan, index))
        starting = asyncio.gather(*(worker.ready(_START_SECONDS) for worker in self._workers))
        first: set[asyncio.Future[Any]] = {starting, stop}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return await self._end(hurry=True)
        await starting
        self._say_ready()
        deaths = {asyncio.create_task(worker.wait()): worker for worker in self._workers}
        done, _ = await asyncio.wait({stop, *deaths}, return_when=asyncio.FIRST_COMPLETED)
        dead = [deaths[task] for task in done if task in deaths]
        for worker in dead:
            _log.error("%s; the service ends", worker.obituary())
        return max(await self._end(hurry=False), 1 if dead else 0)

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._signalled is None:
            self._signalled = now
        elif now - self._signalled > _TWICE:
            # The second Ctrl-C: whoever sends it does not want to wait for calls in flight. Two at once are one that
            # came on two ways, from the terminal and from a supervisor.
            _log.warning("%s again: ending without waiting for calls in flight", signal.Signals(number).name)
            for worker in self._workers:
                worker.terminate()
        self._stop.set()

    async def _end(self, *, hurry: bool) -> int:
        """
        End all workers, and return 0 if all of them have ended well.
        """
        settings = self._plan.settings
        for worker in self._workers:
            worker.terminate() if hurry else worker.drain()
        patience = _CLOSING if hurry else settings.drain_delay + settings.drain_seconds + _CLOSING
        results = await asyncio.gather(*(worker.end_within(patience) for worker in self._workers))
        return 0 if all(results) else 1

    def _say_ready(self) -> None:
        plan = self._plan
        listen, metrics = plan.settings.listen, plan.settings.metrics
        places = ", ".join(str(listen.plus(index)) for index in range(plan.workers))
        pages = ", ".join(f"http://{metrics.plus(index)}/metrics" for index in range(plan.workers))
        _log.info("serving on %s (%s host), metrics on %s", places, plan.host, pages)


def _parse(program: str, settings: type[CommonSettings], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings, from the environment:\n{describe(settings)}",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes; each has a port of its own, counted up"
    )
    parser.add_argument("--check", action="store_true", help="only look whether the service could start")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.workers <= 64:
        parser.error("--workers goes from 1 to 64")
    return arguments


def _importable(module: str, program: str) -> str:
    """
    The name under which another process imports what is `__main__` here.
    """
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else program
