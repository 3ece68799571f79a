"""
A gateway without services, before a bucket; and an HTTP/1.1 client without path normalization.
"""

from __future__ import annotations

import http.client
import io
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import grpc
from botocore.config import Config

from embedded import suite
from embedded.parts import free_port, socket_file
from embedded.s3 import BUCKET, REGION, S3
from embedded.supervisor import Supervisor
from gateway import render
from gateway.__main__ import ask as administration
from gateway.access import Tokens
from gateway.access_log import STANDARD_OUTPUT, AccessLog
from gateway.bucket import Bucket
from gateway.limits import USUAL, Limits
from gateway.render import Addresses
from gateway.tls import NO_TLS, Tls

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOBODY = ("127.0.0.1", 1)
_REQUIRED = ("--registry", "a:1", "--cache", "a:1", "--cdn", "a:1", "--bucket", "bytes")


@dataclass(frozen=True)
class Rendered:
    """
    The exit code and output of `python -m gateway.render`.
    """

    returncode: int
    stdout: str
    stderr: str


def run_render(*arguments: str) -> Rendered:
    """
    Run `python -m gateway.render` in this process, with addresses of services and a bucket; a later option overrides
    an earlier one.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            render.main([*_REQUIRED, *arguments])
        except SystemExit as ended:
            code = int(str(ended.code))
    return Rendered(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Answer:
    """
    A whole answer. The headers' names are in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """
        The google.rpc.Status in the body.
        """
        assert self.headers["content-type"] == "application/json"
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True)
class Edge:
    """
    The gateway on a loopback port.

    Args:
        port: for clients.
        admin: the admin socket.
        operations: the operations port.
        context: TLS context of clients; None is plaintext.
    """

    port: int
    admin: Path
    operations: int
    context: ssl.SSLContext | None = None

    def count(self, *names: str) -> dict[str, int]:
        """
        Envoy's counters of these names.
        """
        lines = administration(self.admin, "/stats").splitlines()
        found = dict(line.split(": ", 1) for line in lines)
        return {name: int(found[name]) for name in names}

    def connect(self) -> http.client.HTTPConnection:
        """
        A connection to it.
        """
        if self.context is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def connect_grpc(self) -> grpc.Channel:
        """
        A plaintext channel to it, with a connection of its own.
        """
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)])

    def watch(self, path: str) -> Answer:
        """
        GET a path from the operations port.
        """
        return replace(self, port=self.operations, context=None).ask(path)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """
        Send a request without normalizing its path.
        """
        connection = self.connect()
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="host" in given, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()


@contextmanager
def gateway(
    s3: S3,
    state: Path,
    environment: Mapping[str, str] | None = None,
    origins: Sequence[str] = (),
    *,
    tls: Tls = NO_TLS,
    context: ssl.SSLContext | None = None,
    tokens: Tokens | None = None,
    limits: Limits = USUAL,
    services: Mapping[str, int | Sequence[int]] | None = None,
    drain_seconds: float = 0,
    hosts: Sequence[str] = (),
    access_log: AccessLog = STANDARD_OUTPUT,
) -> Iterator[Edge]:
    """
    Run a gateway before *s3* whose services are unavailable, with its files in *state*.

    Args:
        s3: the server, running or not.
        state: a folder.
        environment: in place of the one that leads to the bucket's keys.
        origins: allowed CORS origins.
        tokens: the accepted tokens.
        limits: rate and resource limits.
        tls: of the listener and to the services.
        context: TLS context of clients.
        services: the ports of available services; of several instances, all of them.
        drain_seconds: how long its clients may stay connected when it ends.
        hosts: allowed host names besides localhost.
        access_log: destination and sampling.
    """
    edge = Edge(free_port(), socket_file(state, "admin.sock"), free_port(), context)
    there = {
        name: [("127.0.0.1", port) for port in ([ports] if isinstance(ports, int) else ports)]
        for name, ports in (services or {}).items()
    }
    addresses = Addresses(
        listen=("127.0.0.1", edge.port),
        admin=edge.admin,
        registry=there.get("registry", [NOBODY]),
        cache=there.get("cache", [NOBODY]),
        cdn=there.get("cdn", [NOBODY]),
        bucket=Bucket(BUCKET, REGION, s3.endpoint),
        origins=origins,
        hosts=hosts,
        tls=tls,
        tokens=tokens,
        limits=limits,
        operations=("127.0.0.1", edge.operations),
        access_log=access_log,
    )

    def ready() -> None:
        if edge.watch("/readyz").status != 200:
            raise RuntimeError("the gateway is not ready")

    state.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(state / "log")
    part = suite.gateway(state, addresses, ready, environment or s3.environment, drain_seconds)
    try:
        supervisor.start([replace(part, needs=())])
        yield edge
    finally:
        supervisor.stop()


def client(s3: S3) -> S3Client:
    """
    A client of the bucket's server.
    """
    found: S3Client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=REGION,
        aws_access_key_id=s3.access_key_file.read_text().strip(),
        aws_secret_access_key=s3.secret_key_file.read_text().strip(),
        config=Config(s3={"addressing_style": "path"}),
    )
    return found
