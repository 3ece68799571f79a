"""
Starts processes in parallel as their needs allow, waits until they serve, watches them, and stops them in order.

Nothing is restarted silently: a process that ends by itself ends the suite, with its last log lines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import psutil

from embedded.guard import wait_for_end
from embedded.parts import EmbeddedError, Part, as_user

Progress = Callable[[str, float], None]
_POLL = 0.03


class Supervisor:
    """
    The processes of one suite.

    Args:
        logs: the folder for their output, a file each.
        progress: called with a name and seconds when a part is ready.
    """

    def __init__(self, logs: Path, progress: Progress = lambda _name, _seconds: None) -> None:
        self._logs = logs
        self._progress = progress
        self._running: dict[str, tuple[Part, subprocess.Popen[bytes]]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self, parts: Sequence[Part]) -> None:
        """
        Start *parts*, each as soon as what it needs is ready.

        Raises:
            EmbeddedError: one of them does not start. The others are left running: call `stop`.
        """
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs.chmod(0o700)
        waiting = {part.name: part for part in parts}
        unknown = {need for part in parts for need in part.needs} - set(waiting) - set(self._running)
        if unknown:
            raise ValueError(f"needed and never started: {unknown}")
        under_way: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(parts))) as pool:
            while waiting or under_way:
                pending = set(waiting) | set(under_way.values())
                for name in [name for name, part in waiting.items() if not pending.intersection(part.needs)]:
                    under_way[pool.submit(self._bring_up, waiting.pop(name))] = name
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    del under_way[future]
                    try:
                        future.result()
                    except BaseException:
                        # Those that still wait for readiness need not.
                        self._stopping.set()
                        raise

    def watch(self, until: threading.Event) -> None:
        """
        Wait until *until* is set.

        Raises:
            EmbeddedError: a process has ended by itself.
        """
        while not until.wait(0.2):
            with self._lock:
                dead = [(part, process) for part, process in self._running.values() if process.poll() is not None]
            for part, process in dead:
                raise EmbeddedError(self._obituary(part, process, "ended by itself"))

    def pid(self, name: str) -> int:
        """
        The process id of a part.
        """
        return self._running[name][1].pid

    def pids(self) -> dict[str, int]:
        """
        The process ids of all that run, by the name of their part.
        """
        with self._lock:
            return {name: process.pid for name, (_, process) in self._running.items()}

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """
        Send a part a signal and wait for its end, for drills: nobody restarts it but `start`.

        What it has started ends by itself; that is waited for, too, because it may hold the part's port.
        """
        part, process = self._running.pop(name)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.wait(part.patience)
        wait_for_end(family, part.patience)
        self._tell(f"- {process.pid}")

    def wait(self, name: str) -> int:
        """
        Wait for the end of a part that somebody else told to end.

        Returns:
            Its exit code.

        Raises:
            subprocess.TimeoutExpired: it goes on for longer than its patience.
        """
        part, process = self._running.pop(name)
        status = process.wait(part.patience)
        self._tell(f"- {process.pid}")
        return status

    def stop(self) -> None:
        """
        Stop everything in the reverse order of its start.
        """
        self._stopping.set()
        with self._lock:
            running, self._running = list(self._running.values()), {}
        for part, process in reversed(running):
            self._end(part, process)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
        self._stopping.clear()

    def remove_with_us(self, note: Path) -> None:
        """
        Remove a file that says that we run when we do not any more, however we end.
        """
        self._tell(f"~ {note}")

    def _end(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(part.stop_signal)
            try:
                process.wait(part.patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._tell(f"- {process.pid}")

    def _bring_up(self, part: Part) -> None:
        began = time.monotonic()
        process = self._spawn(part)
        if part.ready is None:
            self._wait_for_end(part, process)
        else:
            self._wait_until_ready(part, process, part.ready)
        self._progress(part.name, time.monotonic() - began)

    def _spawn(self, part: Part) -> subprocess.Popen[bytes]:
        with self._lock, os.fdopen(_private(self._logs / f"{part.name}.log"), "ab") as log:
            if self._stopping.is_set():
                raise EmbeddedError(f"{part.name} was not started, because another part failed")
            try:
                process = subprocess.Popen(
                    as_user(part.user, part.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**({} if part.bare else os.environ), **part.environment},
                    cwd=part.folder,
                    # A group of its own: Ctrl-C reaches the supervisor alone, which then stops the parts in order.
                    start_new_session=True,
                )
            except OSError as error:
                raise EmbeddedError(f"{part.name} cannot be run: {error}") from error
            self._tell(f"+ {process.pid} {int(part.stop_signal)} {part.patience}")
            self._running[part.name] = (part, process)
            return process

    def _wait_until_ready(self, part: Part, process: subprocess.Popen[bytes], ready: Callable[[], None]) -> None:
        end = time.monotonic() + part.start_patience
        while True:
            if process.poll() is not None:
                raise EmbeddedError(self._obituary(part, process, "ended while starting"))
            if self._stopping.is_set():
                raise EmbeddedError(f"{part.name} was not waited for, because another part failed")
            try:
                ready()
            except Exception as reason:
                if time.monotonic() > end:
                    raise EmbeddedError(
                        f"{part.name} was not ready within {part.start_patience:.0f} s ({reason})"
                        + self._last_words(part)
                    ) from reason
                time.sleep(_POLL)
            else:
                return

    def _wait_for_end(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        try:
            status = process.wait(part.start_patience)
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"{part.name} did not end within {part.start_patience:.0f} s") from None
        with self._lock:
            self._running.pop(part.name, None)
        self._tell(f"- {process.pid}")
        if status != 0:
            raise EmbeddedError(self._obituary(part, process, "failed"))

    def _obituary(self, part: Part, process: subprocess.Popen[bytes], what: str) -> str:
        status = process.returncode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        return f"{part.name} {what} ({how})" + self._last_words(part)

    def _last_words(self, part: Part) -> str:
        log = self._logs / f"{part.name}.log"
        lines = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        quoted = "".join(f"\n    {line[:300]}" for line in lines if line.strip())
        hint = f"\n  {part.hint}" if part.hint else ""
        return f"{quoted}\n  its whole log is {log}{hint}"

    def _tell(self, line: str) -> None:
        if self._guard is None:
            command = [sys.executable, "-m", "embedded.guard"]
            self._guard = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        if self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(f"{line}\n".encode())
                self._guard.stdin.flush()


def _private(log: Path) -> int:
    """
    Open a log for more, which is nobody else's to read: also one that an earlier release made.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor
