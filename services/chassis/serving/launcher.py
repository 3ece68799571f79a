"""
The parent process of a service: starts its workers, waits until they serve, and shuts them down.

Workers are not restarted: if one exits, the launcher logs it and shuts the service down. Restarting it is up to what
runs the service (Kubernetes, systemd, the embedded supervisor).
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

# Seconds beyond the drain: for the service to close its connections.
_CLOSING = 10.0
_START_SECONDS = 60.0
_TWICE = 1.0


def main(
    program: str,
    compose: Callable[..., Any],
    *,
    settings: type[CommonSettings] = CommonSettings,
    http: bool = False,
    argv: Sequence[str] | None = None,
) -> None:
    """
    Run a service until SIGTERM or SIGINT, and exit: with 0 after a drain, 1 if it could not start or a worker exited, 2
    for a usage error.

    Args:
        program: its name in logs and metrics, such as "services.registry".
        compose: the composition root, an async context manager of the module that calls this.
        settings: the class of its settings.
        http: it serves HTTP (`Server.serve_http`) in place of gRPC; MODELYARD_HOST is then ignored.
        argv: arguments; by default those of the command line.
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
            host="http" if http else choose_host(values.host),
            workers=arguments.workers,
        )
        if arguments.check:
            plan.check()
            sys.stdout.write(f"{program}: the settings are valid, and the ports are free\n")
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
        self._log_ready()
        deaths = {asyncio.create_task(worker.wait()): worker for worker in self._workers}
        done, _ = await asyncio.wait({stop, *deaths}, return_when=asyncio.FIRST_COMPLETED)
        dead = [deaths[task] for task in done if task in deaths]
        for worker in dead:
            _log.error("%s; the service shuts down", worker.exit_description())
        return max(await self._end(hurry=False), 1 if dead else 0)

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._signalled is None:
            self._signalled = now
        elif now - self._signalled > _TWICE:
            # The second Ctrl-C: do not wait for calls in flight. Two signals at once count as one that arrived twice,
            # from the terminal and from a supervisor.
            _log.warning("%s again: stopping without waiting for calls in flight", signal.Signals(number).name)
            for worker in self._workers:
                worker.terminate()
        self._stop.set()

    async def _end(self, *, hurry: bool) -> int:
        """
        Stop all workers.

        Returns:
            0 if all of them exited with 0, otherwise 1.
        """
        settings = self._plan.settings
        for worker in self._workers:
            worker.terminate() if hurry else worker.drain()
        patience = _CLOSING if hurry else settings.drain_delay + settings.drain_seconds + _CLOSING
        results = await asyncio.gather(*(worker.end_within(patience) for worker in self._workers))
        return 0 if all(results) else 1

    def _log_ready(self) -> None:
        plan = self._plan
        listen, metrics = plan.settings.listen, plan.settings.metrics
        places = ", ".join(str(listen.plus(index)) for index in range(plan.workers))
        pages = ", ".join(f"http://{metrics.plus(index)}/metrics" for index in range(plan.workers))
        _log.info("serving on %s (%s host), metrics on %s", places, plan.host, pages)


def _parse(program: str, settings: type[CommonSettings], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings (environment variables):\n{describe(settings)}",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of worker processes, on consecutive ports; default 1",
    )
    parser.add_argument("--check", action="store_true", help="check the settings and the ports, and exit")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.workers <= 64:
        parser.error("--workers must be from 1 to 64")
    return arguments


def _importable(module: str, program: str) -> str:
    """
    The name under which another process can import a module that is `__main__` in this one.
    """
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else program
