"""
A real asset service on a real S3 server behind a link that can be interrupted, called over a real channel.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import grpc
import pytest
from botocore.config import Config
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedded.link import Link
from embedded.parts import free_port
from embedded.s3 import REGION, S3
from services.cdn.__main__ import composed
from services.cdn.model import asset_key
from services.cdn.settings import CdnSettings
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.tests.calls import Stub
from services.chassis.hosts.grpcio import GrpcioHost
from services.chassis.observability.metrics import Metrics
from services.chassis.serving.server import Server
from services.chassis.settings import load

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Only a hang takes as long: a process starts in a second, and on a busy machine in a minute.
_MOST_START_SECONDS = 100
ROOT = Path(__file__).resolve().parents[3]
_OPTIONS = [
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    # The first attempts fail, before the service listens. By default the backoff is seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass(frozen=True)
class Store:
    """
    The bucket, accessed past the service.
    """

    client: S3Client
    bucket: str

    def has(self, sha256: str, *, private: bool = False) -> bool:
        """
        Whether there is an object with this digest.
        """
        key = asset_key(sha256, private=private)
        return key in self.keys(key)

    def keys(self, prefix: str) -> list[str]:
        """
        The keys with this prefix.
        """
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", [])]

    def open_uploads(self, of: str | tuple[str, ...] = "") -> list[str]:
        """
        The keys of open multipart uploads with this prefix.
        """
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return [each["Key"] for each in found if each["Key"].startswith(of)]

    def parts(self, key: str) -> int:
        """
        The number of stored parts of the open multipart uploads of a key. One proves that the service knows the id of
        its upload: only maintenance aborts an upload whose id was lost with the response of S3 (test_sweeping.py).
        """
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        ids = [each["UploadId"] for each in found if each["Key"] == key]
        listed = (self.client.list_parts(Bucket=self.bucket, Key=key, UploadId=each) for each in ids)
        return sum(len(each.get("Parts", [])) for each in listed)

    async def no_open_uploads(self, of: str | tuple[str, ...], patience: float = 10) -> None:
        """
        Fails unless no multipart upload with this prefix is open within *patience* seconds.

        Args:
            of: what their keys begin with. In a bucket that tests share, only what this test has begun: others may
                leave theirs open.
        """
        for _ in range(int(patience * 10)):
            left = self.open_uploads(of)
            if not left:
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"uploads are still open: {left}")


@dataclass(frozen=True)
class Place:
    """
    The storage of a service: a bucket and a database.
    """

    bucket: str
    database: str


@dataclass(frozen=True)
class World:
    """
    What services depend on.
    """

    s3: S3
    client: S3Client
    link: Link
    new_database: Callable[[], str]

    def place(self) -> Place:
        """
        A new bucket and a new database.
        """
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        return Place(bucket, self.new_database())

    def straight(self, bucket: str) -> S3Settings:
        """
        Settings of a bucket that bypass the link.
        """
        keys = (self.s3.access_key_file.read_text().strip(), self.s3.secret_key_file.read_text().strip())
        return S3Settings(bucket, REGION, self.s3.endpoint, *keys)


@dataclass(frozen=True)
class Cdn:
    """
    A running asset service: its channel, its link to S3, its bucket and its process.
    """

    stub: Stub
    channel: grpc.aio.Channel
    target: str
    link: Link
    store: Store
    pid: int
    place: Place


@pytest.fixture(scope="session")
def s3_client(s3: S3) -> S3Client:
    """
    A boto3 client of the S3 server, not through the link.
    """
    return client_of(s3)


@pytest.fixture(scope="session")
async def link(s3: S3) -> AsyncIterator[Link]:
    """
    The TCP proxy between the service and S3.
    """
    link = Link(s3.port)
    await link.up()
    yield link
    await link.down()


@pytest.fixture(scope="session")
def world(s3: S3, s3_client: S3Client, link: Link, new_assets_database: Callable[[], str]) -> World:
    """
    What services depend on.
    """
    return World(s3, s3_client, link, new_assets_database)


@pytest.fixture(scope="session")
async def cdn(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cdn]:
    """
    The shared asset service, in a process of the production host.
    """
    # Short, for the tests of writers that stall.
    async with serving(world, tmp_path_factory.mktemp("cdn"), MODELYARD_UPLOAD_LEASE_SECONDS="0.5") as running:
        yield running


@pytest.fixture
async def own_place(world: World) -> AsyncIterator[Cdn]:
    """
    An asset service in this process for one test, with an empty bucket and an empty database.
    """
    async with serving_here(world) as running:
        yield running


@pytest.fixture(scope="session")
def stub(cdn: Cdn) -> Stub:
    """
    The shared service.
    """
    return cdn.stub


@pytest.fixture(scope="session")
def store(cdn: Cdn) -> Store:
    """
    The bucket of the shared service.
    """
    return cdn.store


def client_of(s3: S3) -> S3Client:
    """
    A boto3 client of a server.
    """
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=REGION,
        aws_access_key_id=s3.access_key_file.read_text().strip(),
        aws_secret_access_key=s3.secret_key_file.read_text().strip(),
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    return client


@asynccontextmanager
async def serving(
    world: World,
    folder: Path,
    *,
    host: str = "auto",
    place: Place | None = None,
    dies: bool = False,
    **more: str,
) -> AsyncIterator[Cdn]:
    """
    `python -m services.cdn`, with its own bucket and database unless given. It must end with exit code 0 unless it
    *dies*.

    Args:
        more: further settings.
    """
    place = place or world.place()
    store = Store(world.client, place.bucket)
    environment = settings(world.s3, world.link, place) | {"MODELYARD_HOST": host, **more}
    async with (
        process(environment, folder, dies=dies) as (target, pid),
        grpc.aio.insecure_channel(target, _OPTIONS) as channel,
    ):
        await ready(channel)
        yield Cdn(Stub(channel), channel, target, world.link, store, pid, place)


@asynccontextmanager
async def serving_here(world: World, *, place: Place | None = None, **more: str) -> AsyncIterator[Cdn]:
    """
    The asset service on the grpcio host in this process, which costs a tenth of the CPU time of a process: for tests
    that need settings or a database of their own and neither kill nor measure the process.

    Args:
        place: one of its own unless given.
        more: further settings.
    """
    place = place or world.place()
    listen = f"127.0.0.1:{free_port()}"
    environment = settings(world.s3, world.link, place) | {"MODELYARD_LISTEN": listen, **more}
    loaded = load(CdnSettings, environment)
    server = Server(loaded, Metrics("services.cdn", "grpcio"))
    async with composed(server, loaded), server.ready():
        host = GrpcioHost(server.handlers, loaded, server.recorders)
        await host.start()
        try:
            async with grpc.aio.insecure_channel(listen, _OPTIONS) as channel:
                await ready(channel)
                store = Store(world.client, place.bucket)
                yield Cdn(Stub(channel), channel, listen, world.link, store, os.getpid(), place)
        finally:
            server.drain()
            await host.drain(2)


def settings(s3: S3, link: Link, place: Place) -> dict[str, str]:
    """
    The environment variables of the service.
    """
    return {
        "MODELYARD_S3_ENDPOINT": f"http://127.0.0.1:{link.port}",
        "MODELYARD_DATABASE_URL": place.database,
        "MODELYARD_S3_BUCKET": place.bucket,
        "MODELYARD_S3_REGION": REGION,
        "MODELYARD_S3_ACCESS_KEY_FILE": str(s3.access_key_file),
        "MODELYARD_S3_SECRET_KEY_FILE": str(s3.secret_key_file),
    }


@asynccontextmanager
async def process(environment: dict[str, str], folder: Path, *, dies: bool) -> AsyncIterator[tuple[str, int]]:
    """
    Run the service; yields its address and its process id.
    """
    listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    log = folder / "log"
    running = _start({**environment, "MODELYARD_LISTEN": listen, "MODELYARD_METRICS": metrics}, log)
    try:
        yield listen, running.pid
    finally:
        running.terminate()
        try:
            # In a thread: the link to S3, which the service may need for its shutdown, runs on this loop.
            code = await asyncio.to_thread(running.wait, 40)
        except subprocess.TimeoutExpired:
            running.kill()
            code = running.wait()
        if code and not dies:
            sys.stderr.write(log.read_text(errors="replace"))
    assert dies or code == 0


def _start(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cdn"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )


async def ready(channel: grpc.aio.Channel) -> None:
    """
    Wait until the health service reports SERVING.
    """
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="modelyard.cdn.v1.AssetService")
    ends = time.monotonic() + _MOST_START_SECONDS
    while time.monotonic() < ends:
        try:
            if (await health.Check(request, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING:
                return
        except grpc.RpcError:
            pass
        await asyncio.sleep(0.1)
    pytest.fail("the service does not become ready")
