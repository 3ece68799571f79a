"""
A worker process, as controlled by the launcher.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path

from services.chassis.hosts import envoy
from services.chassis.serving.background import begin
from services.chassis.serving.control_channel import Assignment
from services.chassis.serving.launch_plan import LaunchPlan, StartError
from services.chassis.settings import Address, LogLevel

_log = logging.getLogger(__name__)

_LAST_LINES = 40
_SHOWN_LINES = 5
_MOST_CHARACTERS = 300  # Envoy quotes its whole configuration in some lines


class Process:
    """
    One worker.

    Args:
        name: for messages, "services.registry worker 0".
        process: the started process.
        control: the launcher's end of the control channel.
        folder: the worker's temporary folder, if it has one; deleted with it.
        verbose: forward the output of the worker's libraries at once.
    """

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        folder: Path | None,
        *,
        verbose: bool,
    ) -> None:
        self._name = name
        self._process = process
        self._control = control
        self._folder = folder
        self._verbose = verbose
        self._noise: deque[str] = deque(maxlen=_LAST_LINES)
        self._said: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._asked_to_end = False
        self._reading = begin(self._read_noise())
        self._listening = begin(self._listen())

    @classmethod
    async def start(cls, plan: LaunchPlan, index: int) -> Process:
        """
        Start worker *index* of *plan*.

        Raises:
            StartError: the process cannot be started.
        """
        # For Envoy's admin socket: a folder that only this user may access.
        folder = Path(tempfile.mkdtemp(prefix="modelyard-")) if plan.host == "envoy" else None
        ours, theirs = socket.socketpair()
        log = os.dup(sys.stderr.fileno())
        assignment = Assignment(
            program=plan.program,
            module=plan.module,
            compose=plan.compose,
            settings=plan.settings_class,
            host=plan.host,
            index=index,
            control=theirs.fileno(),
            log=log,
            folder=str(folder or ""),
            drain_delay=plan.settings.drain_delay,
        )
        settings = plan.settings
        command, extra = _command(plan, settings.listen.plus(index), folder)
        # A worker is the only one on its ports, whatever its index.
        own = {
            "MODELYARD_LISTEN": str(settings.listen.plus(index)),
            "MODELYARD_METRICS": str(settings.metrics.plus(index)),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **extra, **own, **assignment.environment()},
                pass_fds=(theirs.fileno(), log),
                # Ctrl-C in a terminal is for the launcher alone: Envoy would end at once.
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"{command[0]} does not run: {error}") from None
        finally:
            theirs.close()
            os.close(log)
        name = f"{plan.program} worker {index}"
        return cls(name, process, ours, folder, verbose=settings.log_level is LogLevel.DEBUG)

    async def ready(self, seconds: float) -> None:
        """
        Wait until the worker serves.

        Raises:
            StartError: it reports an error, has exited, or is not ready within *seconds*.
        """
        try:
            async with asyncio.timeout(seconds):
                said = await self._said.get()
        except TimeoutError:
            raise StartError(f"{self._name} was not ready within {seconds:g} s{self._last_lines()}") from None
        if said["event"] == "failed":
            raise StartError(said["message"])
        if said["event"] == "end":
            await self.wait()
            raise StartError(self.exit_description())

    def drain(self) -> None:
        """
        Tell the worker to drain: finish its calls and exit.
        """
        self._asked_to_end = True
        with suppress(OSError):
            self._control.send(b"drain\n")

    def terminate(self) -> None:
        """
        Tell the worker to exit at once.
        """
        self._asked_to_end = True
        if self._process.returncode is None:
            self._process.terminate()

    async def wait(self) -> int:
        """
        Wait until the worker has exited.

        Returns:
            Its exit status; negative for a signal.
        """
        status = await self._process.wait()
        await self._reading
        return status

    async def end_within(self, seconds: float) -> bool:
        """
        Wait until the worker has exited, kill it after *seconds*, and clean up.

        Returns:
            Whether the worker exited by itself with status 0.
        """
        try:
            async with asyncio.timeout(seconds):
                status = await self.wait()
        except TimeoutError:
            _log.error("%s did not end within %g s and was killed", self._name, seconds)
            self._process.kill()
            status = await self.wait()
        self._listening.cancel()
        self._control.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        return status in {0, -signal.SIGTERM} if self._asked_to_end else False

    def exit_description(self) -> str:
        """
        Which worker ended, with which exit status or signal, and its last log lines.
        """
        status = self._process.returncode or 0
        how = f"exit status {status}" if status >= 0 else f"signal {-status} ({signal.Signals(-status).name})"
        return f"{self._name} ended with {how}{self._last_lines()}"

    def _last_lines(self) -> str:
        last = " | ".join(list(self._noise)[-_SHOWN_LINES:])
        return f"; it last wrote: {last}" if last else ""

    async def _read_noise(self) -> None:
        # What Envoy and C libraries write: of interest only when something is wrong.
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - it was asked for above
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line beyond the reader's limit: the limit's worth of it was dropped
                continue
            if not raw:
                return
            line = raw.decode("utf-8", "replace").strip()
            if line:
                self._noise.append(line[:_MOST_CHARACTERS])
                if self._verbose:
                    sys.stderr.write(f"{self._name}: {line}\n")

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._control.dup())
        try:
            while line := await reader.readline():
                self._said.put_nowait(json.loads(line))
        except OSError:
            pass
        finally:
            writer.close()
            # However it ends: somebody may wait for the next word.
            self._said.put_nowait({"event": "end"})


def _command(plan: LaunchPlan, listen: Address, folder: Path | None) -> tuple[list[str], dict[str, str]]:
    if folder is not None:
        settings = plan.settings
        admin = folder / "admin.sock"
        command = envoy.command(listen, admin, settings.drain_seconds, settings.tls(), settings.connection_age)
        return command, envoy.environment()
    # The path of imports as it is here: a service may have been started from a script.
    return [sys.executable, "-m", "services.chassis.serving.worker"], {"PYTHONPATH": os.pathsep.join(sys.path)}
