"""
The whole suite on loopback: what `make run`, `make demo`, the tests and the benches start.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from embedded import access, authority, suite
from embedded.authority import Authority
from embedded.parts import EmbeddedError, Part, free_port, is_free, socket_file
from embedded.postgres import ASSETS_DATABASE, SERVICE_ROLE, Postgres, close_folder
from embedded.s3 import BUCKET, REGION, S3
from embedded.supervisor import Progress, Supervisor
from embedded.valkey import Valkey
from gateway.bucket import Bucket
from gateway.render import Addresses
from gateway.tls import NO_TLS, Listener, Services, Tls
from services.chassis.hosts import envoy
from services.chassis.settings.common import HostChoice
from services.chassis.settings.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class StackSettings:
    """
    How to run the suite.

    Args:
        state: the folder that holds everything: data, logs, secrets.
        gateway_port: on loopback; 0 means any free one.
        workers: processes of each service.
        instances: of each service, each with so many workers, as pods of a deployment are.
        gateways: the same, each on a port of its own.
        drain_seconds: that calls under way may take when a gateway is told to end.
        host: what serves the services: envoy, grpcio or auto.
        environment: further settings of all services.
        access: whether calls need a token: off, read-public or on.
        parts: only these parts and what they need; empty means all.
        origins: of other sites whose scripts may call the gateway.
        hosts: names that clients call the gateway by, besides those of loopback.
        tls: TLS at the gateway and mutual TLS behind it, with certificates of an authority in the state folder.
    """

    state: Path
    gateway_port: int = 8080
    workers: int = 1
    instances: int = 1
    gateways: int = 1
    drain_seconds: float = 0
    host: str = "envoy"
    environment: dict[str, str] = field(default_factory=dict)
    access: str = "off"
    parts: Sequence[str] = ()
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()
    tls: bool = False


class Stack:
    """
    The suite. As a context manager it runs inside the block.

    Args:
        settings: how.
        progress: called with a part's name and seconds when it is ready.

    Attributes:
        gateway: host:port of the (first) gateway.
        gateways: of each.
        gateways_metrics: the page of each gateway's metrics.
        postgres: the database server.
        valkey: the Valkey server.
        s3: the S3 server.
        services: registry, cache, cdn and doors by name: the first instance of each.
        authority: of all certificates; None without TLS.
    """

    def __init__(self, settings: StackSettings, progress: Progress = lambda _name, _seconds: None) -> None:
        self.settings = settings
        self._state = settings.state.resolve()
        self._supervisor = Supervisor(self._state / "log", progress)
        self._parts: dict[str, Part] = {}
        self._lock: IO[str] | None = None
        self.gateway = ""
        self.gateways: list[str] = []
        self.gateways_metrics: list[str] = []
        self.services: dict[str, suite.Service] = {}
        self._access: dict[str, str] = {}
        self.authority = Authority(self._state / "tls") if settings.tls else None
        self._own_tls: TlsFiles | None = None

    @property
    def gateway_metrics(self) -> str:
        """
        The page of the (first) gateway's metrics.
        """
        return self.gateways_metrics[0]

    def start(self) -> None:
        """
        Start everything and wait until it serves.

        Raises:
            EmbeddedError: something does not start; nothing is left running.
        """
        try:
            self._take_state()
            self._plan()
            self._supervisor.start(self._wanted())
            self._write_run()
        except BaseException:
            self.stop()
            raise

    def serve(self, until: threading.Event) -> None:
        """
        Keep an eye on everything until *until* is set.

        Raises:
            EmbeddedError: a process has ended by itself.
        """
        self._supervisor.watch(until)

    def stop(self) -> None:
        """
        Stop everything in order; the data stays.
        """
        self._supervisor.stop()
        if self._lock is not None:
            (self._state / "run.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def pid(self, name: str) -> int:
        """
        The process id of a part.
        """
        return self._supervisor.pid(name)

    def pids(self) -> dict[str, int]:
        """
        The process ids of all parts that run, by name.
        """
        return self._supervisor.pids()

    def kill(self, name: str) -> None:
        """
        Kill a part with -9, for drills. Nobody starts it again but `revive`.
        """
        self._supervisor.kill(name)

    def run(self, part: Part) -> None:
        """
        Start a further part, such as a second registry beside the first, and wait until it serves.

        Raises:
            EmbeddedError: it does not start.
        """
        self._parts[part.name] = part
        self._supervisor.start([part])

    def restart(self, name: str) -> None:
        """
        End a part as whoever runs it does, start it again, and wait until it serves.

        Raises:
            EmbeddedError: it does not start.
        """
        self._supervisor.kill(name, self._parts[name].stop_signal)
        self.revive(name)

    def revive(self, name: str) -> None:
        """
        Start a killed part again, as it was, and wait until it serves.

        Raises:
            EmbeddedError: it does not start.
        """
        # What it needs was started with it, and may have ended since, like the migration.
        self._supervisor.start([replace(self._parts[name], needs=())])

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_state(self) -> None:
        try:
            close_folder(self._state)
            lock = (self._state / "lock").open("a+")
        except OSError as error:
            raise EmbeddedError(f"the state folder {self._state} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedError(
                f"the suite of {self._state} is running already{_who(self._state)}: "
                "stop it, or set MODELYARD_STATE to run another"
            ) from None
        self._lock = lock
        # Of a run that was killed: it is not this one.
        (self._state / "run.json").unlink(missing_ok=True)

    def _plan(self) -> None:
        wanted = self.settings.host
        if wanted not in (hosts := [one.value for one in HostChoice]):
            raise EmbeddedError(f"MODELYARD_HOST is {wanted!r}, not one of {', '.join(hosts)}")
        if wanted == "envoy" and (lacks := envoy.missing()) and not self.settings.parts:
            raise EmbeddedError(f"{lacks}, or run with MODELYARD_HOST=grpcio, which is several times slower")
        port = self.settings.gateway_port or free_port()
        _check_free(port)
        self.gateways = [f"127.0.0.1:{port}", *(f"127.0.0.1:{free_port()}" for _ in range(self.settings.gateways - 1))]
        self.gateway = self.gateways[0]
        self.gateways_metrics = []
        self.postgres = Postgres.inside(self._state, initialised=False)
        self.valkey = Valkey.closed(self._state, free_port())
        self.s3 = S3(self._state, free_port())
        self._access = access.settings(self._state, self.settings.access)
        self._own_tls = self._issue("gateway")
        self.services = {service.name: service for service in self._services()}
        parts = [
            self.postgres.part(),
            self.valkey.part(),
            self.s3.part(),
            suite.migration("registry", self.postgres.url()),
            suite.migration("cdn", self.postgres.url(ASSETS_DATABASE)),
            *(part for service in self.services.values() for part in service.parts()),
            *(self._gateway(number, target) for number, target in enumerate(self.gateways, 1)),
        ]
        self._parts = {part.name: part for part in parts}
        if "postgresql" in (part.name for part in self._wanted()):
            self.postgres.initialise()

    def _gateway(self, number: int, target: str) -> Part:
        name = suite.numbered("gateway", number)
        state, operations = self._state if number == 1 else self._state / name, ("127.0.0.1", free_port())
        state.mkdir(mode=0o700, exist_ok=True)
        host, _, port = target.rpartition(":")
        addresses = Addresses(
            listen=(host, int(port)),
            admin=socket_file(state, "admin.sock"),
            operations=operations,
            hosts=self.settings.hosts,
            bucket=Bucket(BUCKET, REGION, self.s3.endpoint),
            origins=self.settings.origins,
            tls=_gateway_tls(state, self._own_tls),
            tokens=access.tokens({**self._access, **self.settings.environment}),
            registry=self.services["registry"].addresses,
            cache=self.services["cache"].addresses,
            cdn=self.services["cdn"].addresses,
            doors=self.services["doors"].addresses,
        )
        self.gateways_metrics.append(f"http://{operations[0]}:{operations[1]}/metrics")

        def serves() -> None:
            suite.serving(target, self.services["registry"].health, self._own_tls)

        part = suite.gateway(state, addresses, serves, self.s3.environment, self.settings.drain_seconds)
        return replace(part, name=name, patience=max(part.patience, self.settings.drain_seconds + 10))

    def _issue(self, name: str) -> TlsFiles | None:
        return None if self.authority is None else self.authority.issue(name)

    def _services(self) -> list[suite.Service]:
        processes = self.settings.workers * self.settings.instances
        cache_target = ports_of(cache_port := suite.ports(processes), processes)
        registry_target = ports_of(registry := suite.ports(processes), processes)
        cdn_target = ports_of(cdn := suite.ports(processes), processes)
        s3 = {
            "MODELYARD_DATABASE_URL": self.postgres.url(ASSETS_DATABASE, SERVICE_ROLE),
            "MODELYARD_REGISTRY_TARGET": registry_target,
            "MODELYARD_S3_ENDPOINT": self.s3.endpoint,
            "MODELYARD_S3_BUCKET": BUCKET,
            "MODELYARD_S3_REGION": REGION,
            "MODELYARD_S3_ACCESS_KEY_FILE": str(self.s3.access_key_file),
            "MODELYARD_S3_SECRET_KEY_FILE": str(self.s3.secret_key_file),
        }
        database = {"MODELYARD_DATABASE_URL": self.postgres.url(user=SERVICE_ROLE), "MODELYARD_CDN_TARGET": cdn_target}
        cache = {
            "MODELYARD_REGISTRY_TARGET": registry_target,
            "MODELYARD_CDN_TARGET": cdn_target,
            **self.valkey.environment,
        }
        doors = {
            "MODELYARD_REGISTRY_TARGET": registry_target,
            "MODELYARD_CACHE_TARGET": cache_target,
            "MODELYARD_CDN_TARGET": cdn_target,
        }
        return [
            self._service("registry", "modelyard.registry.v1.ModelService", ["registry-migration"], database, registry),
            self._service("cdn", "modelyard.cdn.v1.AssetService", ["s3", "cdn-migration"], s3, cdn),
            self._service("cache", "modelyard.cache.v1.CacheAdminService", ["valkey"], cache, cache_port),
            self._service("doors", suite.HTTP, ["registry"], doors),
        ]

    def _service(
        self, name: str, health: str, needs: Sequence[str], environment: dict[str, str], port: int | None = None
    ) -> suite.Service:
        workers, instances = self.settings.workers, self.settings.instances
        tls = self._issue(name)
        return suite.Service(
            name=name,
            health=health,
            needs=needs,
            environment={
                **environment,
                **self._access,
                **access.own(self._state, self.settings.access, name),
                **authority.settings(tls),
                **self.settings.environment,
            },
            workers=workers,
            instances=instances,
            host=self.settings.host,
            port=port or suite.ports(workers * instances),
            metrics_port=suite.ports(workers * instances),
            tls=tls,
        )

    def _wanted(self) -> list[Part]:
        names = set(self.settings.parts) or set(self._parts)
        while more := {need for name in names for need in self._parts[name].needs} - names:
            names |= more
        return [part for name, part in self._parts.items() if name in names]

    def _write_run(self) -> None:
        run = {
            "pid": os.getpid(),
            "gateway": self.gateway,
            "ca_file": str(self.authority.certificate) if self.authority else None,
            "gateway_metrics": self.gateway_metrics,
            "services": {
                name: [f"{host}:{port}" for host, port in one.addresses] for name, one in self.services.items()
            },
            "metrics": {name: one.metrics for name, one in self.services.items()},
            "postgresql": self.postgres.url(),
            "valkey": self.valkey.url,
            "s3": self.s3.endpoint,
        }
        file = self._state / "run.json"
        self._supervisor.remove_with_us(file)
        file.touch(mode=0o600)
        file.write_text(json.dumps(run, indent=2) + "\n")


def _gateway_tls(state: Path, files: TlsFiles | None) -> Tls:
    if files is None:
        return NO_TLS
    services = Services(files.certificate, files.key, files.authority)
    return Tls(state / "gateway-tls", Listener(files.certificate, files.key), services)


def ports_of(first: int, count: int) -> str:
    """
    The addresses of *count* workers as a target list.
    """
    return ",".join(f"127.0.0.1:{first + index}" for index in range(count))


def _check_free(port: int) -> None:
    if not is_free(port):
        raise EmbeddedError(f"port {port} cannot be used{_holder(port)}: choose another one, make run PORT={port + 1}")


def _holder(port: int) -> str:
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f": {psutil.Process(connection.pid).name()} with process id {connection.pid} listens on it"
    return ""


def _who(state: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        run = json.loads((state / "run.json").read_text())
        return f" (process id {run['pid']}, gateway on {run['gateway']})"
    return ""
