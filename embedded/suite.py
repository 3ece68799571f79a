"""
The parts that are ours: the migration, the four services and the gateway.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded.parts import EmbeddedError, Part, free_port
from gateway import site, tls
from gateway.render import Addresses, descriptor_set, render
from services.chassis.serving.http_calls import READY
from services.chassis.serving.tls import channel_credentials
from services.chassis.settings.tls import TlsFiles

#: In place of the name of a gRPC service: it serves HTTP.
HTTP: Final = ""


@dataclass(frozen=True, slots=True)
class Service:
    """
    One of our services.

    Args:
        name: registry, cache, cdn or doors.
        health: the gRPC service whose readiness counts, or `HTTP`.
        needs: parts that must be ready before.
        environment: its own settings.
        workers: processes of an instance, each with a port of its own.
        host: envoy, grpcio or auto.
        port: of the first worker.
        metrics_port: of the first worker.
        instances: as pods of a deployment: each starts and ends by itself.
        tls: its certificate; None means plain text.
    """

    name: str
    health: str
    needs: Sequence[str]
    environment: Mapping[str, str]
    workers: int
    host: str
    port: int
    metrics_port: int
    tls: TlsFiles | None = None
    instances: int = 1

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """
        Where the workers of all instances serve.
        """
        return [("127.0.0.1", self.port + index) for index in range(self.workers * self.instances)]

    @property
    def metrics(self) -> list[str]:
        """
        Where the workers' metrics are.
        """
        processes = range(self.workers * self.instances)
        return [f"http://127.0.0.1:{self.metrics_port + index}/metrics" for index in processes]

    def parts(self) -> list[Part]:
        """
        Every instance.
        """
        return [self.part(number) for number in range(1, self.instances + 1)]

    def part(self, number: int = 1) -> Part:
        """
        One instance, ready when every worker of it says that it is.

        Args:
            number: of the instance, from 1.
        """
        first = (number - 1) * self.workers
        common = {
            "MODELYARD_HOST": self.host,
            "MODELYARD_LISTEN": f"127.0.0.1:{self.port + first}",
            "MODELYARD_METRICS": f"127.0.0.1:{self.metrics_port + first}",
            "MODELYARD_LOG_FORMAT": "json",
        }

        def ready() -> None:
            for host, port in self.addresses[first : first + self.workers]:
                if self.health == HTTP:
                    serving_http(host, port, self.tls)
                else:
                    serving(f"{host}:{port}", self.health, self.tls)

        return Part(
            name=numbered(self.name, number),
            argv=[sys.executable, "-m", f"services.{self.name}", "--workers", str(self.workers)],
            ready=ready,
            needs=self.needs,
            environment={**common, **self.environment},
        )


def numbered(name: str, number: int) -> str:
    """
    What the *number*-th instance of a part is called: registry, registry-2, …
    """
    return name if number == 1 else f"{name}-{number}"


def serving(target: str, service: str, files: TlsFiles | None = None) -> None:
    """
    Args:
        target: host:port.
        service: whose readiness is asked for.
        files: the certificate to show, and the authority of the server's; None means plain text.

    Raises:
        RuntimeError: the service does not say that it is ready.
        OSError: nothing listens.
        grpc.RpcError: the call fails.
    """
    # Asked many times while the process starts: a refused connection costs far less than a channel.
    host, _, port = target.rpartition(":")
    socket.create_connection((host, int(port)), timeout=1).close()
    with channel_to(target, files) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"{service} is not ready")


def serving_http(host: str, port: int, files: TlsFiles | None = None) -> None:
    """
    As `serving`, for a service of HTTP.

    Raises:
        RuntimeError: the service does not say that it is ready.
        OSError: nothing listens.
    """
    if files is None:
        connection = http.client.HTTPConnection(host, port, timeout=1)
    else:
        context = ssl.create_default_context(cafile=str(files.authority))
        context.load_cert_chain(files.certificate, files.key)
        connection = http.client.HTTPSConnection(host, port, timeout=1, context=context)
    with closing(connection):
        connection.request("GET", READY)
        if connection.getresponse().status != 200:
            raise RuntimeError("the service is not ready")


def channel_to(target: str, files: TlsFiles | None) -> grpc.Channel:
    """
    A channel to a part of the suite.
    """
    if files is None:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, channel_credentials(files.read()))


def migration(service: str, database_url: str) -> Part:
    """
    Bring the schema of a service's database up to date; ends when it is.
    """
    return Part(
        name=f"{service}-migration",
        argv=[sys.executable, "-m", f"services.{service}.migrate"],
        ready=None,
        needs=["postgresql"],
        environment={"MODELYARD_DATABASE_URL": database_url},
    )


def ports(count: int) -> int:
    """
    The first of *count* free loopback ports in a row.
    """
    for _ in range(200):
        first = free_port()
        if [free_port() for _ in range(count - 1)] == list(range(first + 1, first + count)):
            return first
    raise EmbeddedError(f"no {count} free ports in a row on loopback")


def access_log(state: Path) -> Path:
    """
    The file for the access log of a gateway, made so that nobody else reads who asks for what.
    """
    file = state / "log" / "gateway-access.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    file.chmod(0o600)
    return file


def gateway(
    state: Path,
    addresses: Addresses,
    ready: Callable[[], None],
    environment: Mapping[str, str] | None = None,
    drain_seconds: float = 0,
) -> Part:
    """
    The Envoy gateway. Its configuration, the contracts' descriptors and the page are written into the state folder.

    Args:
        state: the folder.
        addresses: where everything is.
        ready: returns when it serves.
        environment: where the keys of the bucket are, see `S3.environment`.
        drain_seconds: that calls under way may take when it is told to end.
    """
    descriptors, config = state / "contracts.binpb", state / "gateway.yaml"
    addresses = replace(addresses, access_log=replace(addresses.access_log, file=access_log(state)))
    descriptors.write_bytes(descriptor_set())
    tls.write(addresses.tls)
    config.write_text(render(addresses, descriptors, site.write(state / "site", addresses.tokens)))
    options = [
        "--config",
        str(config),
        "--admin",
        str(addresses.admin),
        "--drain-seconds",
        str(drain_seconds),
    ]
    return Part(
        name="gateway",
        argv=[sys.executable, "-m", "gateway", *options],
        ready=ready,
        needs=["registry", "cache", "cdn", "doors", "s3"],
        environment=environment or {},
        hint="Is the port taken? Choose another one: make run PORT=9090",
    )
