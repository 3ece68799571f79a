"""
A real delivery service on the grpcio host in this process, on a real database and a real bucket.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc

from embedded.parts import free_port
from modelyard.cdn.v1 import delivery_pb2 as pb
from modelyard.cdn.v1.delivery_pb2_grpc import DeliveryServiceStub
from services.cdn.delivery import serve_delivery
from services.cdn.delivery_settings import DeliverySettings
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.store.records import Records
from services.cdn.store.retention.pins import Pins
from services.cdn.tests.allow_all import AllowAll
from services.chassis.hosts.grpcio import GrpcioHost
from services.chassis.observability.metrics import Metrics
from services.chassis.serving.server import Server
from services.chassis.settings import load
from services.ledger.store.database import Database, open_database

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

VERSION = "namespaces/team/models/net/versions/3"


@dataclass(frozen=True)
class Place:
    """
    The database and the bucket of a service, accessed past the service.

    Args:
        url: of the database, for the service's role.
        owner_url: of the database, for the one who may do everything.
        quota: bytes that an owner may pin; 0 for as many as it likes.
    """

    url: str
    owner_url: str
    client: S3Client
    s3: S3Settings
    quota: int = 0

    async def sql(self, text: str, *args: Any) -> list[asyncpg.Record]:
        """
        Run a statement as the owner of the database.
        """
        connection = await asyncpg.connect(self.owner_url)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(text, *args)
            return rows
        finally:
            await connection.close()

    async def asset(
        self,
        data: bytes,
        media_type: str = "text/plain",
        *,
        private: bool = False,
        variants: dict[str, bytes] | None = None,
        state: str = "LIVE",
    ) -> str:
        """
        An asset as stored by an upload; returns its digest.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{'private' if private else 'assets'}/{sha256}"
        self.client.put_object(Bucket=self.s3.bucket, Key=key, Body=data, ContentType=media_type)
        for encoding, body in (variants or {}).items():
            self.client.put_object(Bucket=self.s3.bucket, Key=f"{encoding}/{key}", Body=body, ContentEncoding=encoding)
        await self.sql(
            """
INSERT INTO assets (sha256, state, size_bytes, media_type, private, encodings, create_time, touch_time, revision)
VALUES ($1, $2, $3, $4, $5, $6, now(), now(), 1)
""",
            sha256,
            state,
            len(data),
            media_type,
            private,
            list(variants or {}),
        )
        return sha256

    async def pin(self, owner: str, digests: Sequence[str]) -> None:
        """
        Pin assets like the Pin RPC.
        """
        await self.sql(
            """
INSERT INTO pins (owner, sha256, size_bytes, create_time)
SELECT $1, sha256, size_bytes, now() FROM assets WHERE sha256 = ANY($2::text[])
""",
            owner,
            list(digests),
        )

    async def unpin(self, owner: str) -> None:
        """
        Remove all pins of an owner.
        """
        await self.sql("DELETE FROM pins WHERE owner = $1", owner)

    def head(self, key: str) -> HeadObjectOutputTypeDef | None:
        """
        The headers of an object; None if it does not exist.
        """
        if key not in self.keys(key):
            return None
        return self.client.head_object(Bucket=self.s3.bucket, Key=key)

    def read(self, key: str) -> bytes:
        """
        The bytes of an object.
        """
        return self.client.get_object(Bucket=self.s3.bucket, Key=key)["Body"].read()

    def keys(self, prefix: str) -> set[str]:
        """
        The keys with this prefix.
        """
        found = self.client.list_objects_v2(Bucket=self.s3.bucket, Prefix=prefix)
        return {entry["Key"] for entry in found.get("Contents", [])}


@dataclass(frozen=True)
class Delivery:
    """
    A running delivery service.

    Args:
        database: as it is used by the service.
        remove_version_copies: what the collection calls.
    """

    stub: Any
    place: Place
    database: Database
    remove_version_copies: Callable[[], Awaitable[int]]

    async def put(
        self,
        path: str,
        sha256: str,
        *,
        cache_control: str = "",
        content_disposition: str = "",
        content_type: str = "",
        etag: str = "",
        request_id: str = "",
    ) -> pb.StaticFile:
        """
        Point a path at an asset.
        """
        static_file = pb.StaticFile(
            name=f"static/{path}",
            asset=f"assets/{sha256}",
            cache_control=cache_control,
            content_disposition=content_disposition,
            content_type=content_type,
            etag=etag,
        )
        request = pb.PutStaticFileRequest(static_file=static_file, request_id=request_id)
        answer: pb.StaticFile = await self.stub.PutStaticFile(request)
        return answer


@asynccontextmanager
async def running(place: Place, **environ: str) -> AsyncIterator[Delivery]:
    """
    Serve DeliveryService while the block lasts.

    Args:
        environ: more settings.
    """
    port = free_port()
    own = {
        "MODELYARD_DATABASE_URL": place.url,
        "MODELYARD_DATABASE_STARTUP_SECONDS": "5",
        "MODELYARD_LISTEN": f"127.0.0.1:{port}",
        **environ,
    }
    settings = load(DeliverySettings, own)
    server = Server(settings, Metrics("services.cdn", "grpcio"))
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database("modelyard-cdn")))
        pins = Pins(database, place.quota)
        remove_version_copies = await stack.enter_async_context(
            serve_delivery(server, settings, place.s3, database, Records(database), pins, AllowAll())
        )
        await stack.enter_async_context(server.ready())
        host = GrpcioHost(server.handlers, settings, server.recorders)
        await host.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Delivery(DeliveryServiceStub(channel), place, database, remove_version_copies)
        finally:
            server.drain()
            await host.drain(2)


def some_bytes() -> bytes:
    """
    Random bytes, which no other test has stored.
    """
    return uuid.uuid4().hex.encode()
