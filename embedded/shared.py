"""
The servers of one test run, which all of its worker processes share.

The controller of the run (or pytest itself, when it runs without workers) owns them: it starts each one when a worker
asks for it first, and stops all of them when the run ends. Workers ask over a Unix domain socket and get a picklable
description. When the controller is killed, the supervisors' guards stop the servers (`embedded.guard`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, cast

from embedded.parts import free_port
from embedded.postgres import Postgres
from embedded.s3 import S3
from embedded.scratch import scratch
from embedded.stack import Stack, StackSettings
from embedded.supervisor import Supervisor

#: Settings of a PostgreSQL whose data are deleted with the run: it need not survive a crash.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# A run creates many hundred databases, and autovacuum would start a process for each of them every minute.
_MANY_DATABASES = {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "8GB", "wal_writer_delay": "1s"}
# Every worker's pools and processes connect to the one server.
_CONNECTIONS = "600"
# For the buckets of all tests of a run.
_VOLUMES = 1000

_T = TypeVar("_T")


class SharedStack(Stack):
    """
    A suite that runs in another process. It is for tests that leave the servers as they are: a test that stops or
    reconfigures one starts a suite of its own.

    Args:
        running: the suite, in the process that runs it.
    """

    def __init__(self, running: Stack) -> None:
        super().__init__(running.settings)
        for name in ("gateway", "gateways", "gateways_metrics", "services", "postgres", "valkey", "s3"):
            setattr(self, name, getattr(running, name))
        self._pids = running.pids()

    def __reduce__(self) -> tuple[Callable[..., SharedStack], tuple[StackSettings, dict[str, Any]]]:
        left_out = ("settings", "authority", "_supervisor", "_lock", "_parts")
        return _shared_stack, (
            self.settings,
            {name: value for name, value in vars(self).items() if name not in left_out},
        )

    def pid(self, name: str) -> int:
        """
        The process id of a part.
        """
        return self._pids[name]

    def pids(self) -> dict[str, int]:
        """
        The process ids of all parts by name.
        """
        return dict(self._pids)

    def _refuse(self, *_args: object) -> NoReturn:
        raise RuntimeError("this suite is shared by all tests of the run: start an own one (marker own_suite)")

    start = stop = kill = restart = revive = run = _refuse  # type: ignore[assignment]


def _shared_stack(settings: StackSettings, attributes: dict[str, Any]) -> SharedStack:
    made = SharedStack.__new__(SharedStack)
    Stack.__init__(made, settings)
    vars(made).update(attributes)
    return made


class Servers(Protocol):
    """
    What tests can ask for. Each method starts its server at the first call and returns the same one afterwards.
    """

    def postgres(self) -> Postgres:
        """
        A PostgreSQL server that is not durable.
        """

    def template(self, service: str) -> str:
        """
        The name of a database with a service's schema, to create others from.
        """

    def s3(self) -> S3:
        """
        An S3 server with its bucket.
        """

    def stack(self, kind: str, settings: StackSettings) -> SharedStack:
        """
        A whole suite.

        Args:
            kind: its name; the same settings every time.
            settings: of the suite; the state folder is replaced.
        """


class RunServers:
    """
    The servers, in the process that owns them.
    """

    def __init__(self) -> None:
        self._resources = ExitStack()
        self._state = self._resources.enter_context(scratch())
        self._supervisor = Supervisor(self._state / "log")
        self._resources.callback(self._supervisor.stop)
        self._lock = threading.Lock()
        self._made: dict[str, Future[Any]] = {}

    def postgres(self) -> Postgres:
        return self._once("postgres", self._start_postgres)

    def template(self, service: str) -> str:
        return self._once(f"template {service}", lambda: self._migrate(service))

    def s3(self) -> S3:
        return self._once("s3", self._start_s3)

    def stack(self, kind: str, settings: StackSettings) -> SharedStack:
        return self._once(f"stack {kind}", lambda: self._start_stack(kind, settings))

    def close(self) -> None:
        """
        Stop all servers and delete their data.
        """
        self._resources.close()

    def _once(self, key: str, make: Callable[[], _T]) -> _T:
        with self._lock:
            mine = key not in self._made
            future = self._made.setdefault(key, Future())
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: BLE001 - everybody who waits for it raises it
                future.set_exception(error)
        return cast("_T", future.result())

    def _start_postgres(self) -> Postgres:
        server = Postgres.inside(self._state)
        self._supervisor.start([server.part(**NOT_DURABLE, **_MANY_DATABASES, max_connections=_CONNECTIONS)])
        # An orderly shutdown would write out, over seconds, what is deleted next.
        self._resources.callback(_kill, self._supervisor.kill, "postgresql", signal.SIGQUIT)
        return server

    def _migrate(self, service: str) -> str:
        postgres, name = self.postgres(), f"migrated_{service}"
        postgres.sql(f"CREATE DATABASE {name}")
        subprocess.run(
            [sys.executable, "-m", f"services.{service}.migrate"],
            env={"MODELYARD_DATABASE_URL": postgres.url(name), "PATH": ""},
            cwd=Path(__file__).resolve().parents[1],
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
        return name

    def _start_s3(self) -> S3:
        server = S3(self._state, free_port())
        self._supervisor.start([server.part(volumes=_VOLUMES)])
        self._resources.callback(_kill, self._supervisor.kill, "s3", signal.SIGKILL)
        return server

    def _start_stack(self, kind: str, settings: StackSettings) -> SharedStack:
        resources = ExitStack()
        with self._lock:
            # A folder of its own: a suite locks its state folder.
            state = self._resources.enter_context(scratch())
            self._resources.callback(resources.close)
        running = resources.enter_context(Stack(replace(settings, state=state)))
        resources.callback(_kill, running.kill, "s3")
        return SharedStack(running)


def _kill(kill: Callable[..., None], *args: Any) -> None:
    with suppress(KeyError):
        kill(*args)


@dataclass(frozen=True)
class _Remote:
    """
    The servers, in a worker.
    """

    address: str
    key: bytes

    def postgres(self) -> Postgres:
        return cast("Postgres", self._ask("postgres"))

    def template(self, service: str) -> str:
        return cast("str", self._ask("template", service))

    def s3(self) -> S3:
        return cast("S3", self._ask("s3"))

    def stack(self, kind: str, settings: StackSettings) -> SharedStack:
        return cast("SharedStack", self._ask("stack", kind, settings))

    def _ask(self, name: str, *args: object) -> object:
        with Client(self.address, "AF_UNIX", authkey=self.key) as connection:
            connection.send((name, args))
            succeeded, answer = connection.recv()
        if not succeeded:
            raise RuntimeError(f"the test run's {name} did not start: {answer}")
        return answer


class Endpoint:
    """
    Serves the run's servers to its workers.

    Args:
        servers: in this process.

    Attributes:
        address: the socket's path.
        key: that workers authenticate with.
    """

    def __init__(self, servers: RunServers) -> None:
        self._servers = servers
        self._folder = ExitStack()
        self.address = str(self._folder.enter_context(scratch()) / "servers.sock")
        self.key = os.urandom(16)
        self._listener = Listener(self.address, "AF_UNIX", backlog=64, authkey=self.key)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """
        Stop serving.
        """
        self._listener.close()
        self._folder.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return
            except Exception:  # noqa: BLE001, S112 - a client that failed to authenticate; the next one may succeed
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection[Any, Any]) -> None:
        with closing(connection):
            name, args = connection.recv()
            try:
                answer = True, getattr(self._servers, name)(*args)
            except Exception as error:  # noqa: BLE001 - the worker raises it
                answer = False, str(error)
            with suppress(OSError):
                connection.send(answer)


def remote(address: str, key: bytes) -> Servers:
    """
    The servers of the run that a worker belongs to.
    """
    return _Remote(address, key)
