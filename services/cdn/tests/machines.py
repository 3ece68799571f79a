"""
Two asset services in this process, as two processes would run them, whose steps a test may control.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import asyncpg

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import uploads_pb2
from services.cdn.model import asset_key
from services.cdn.service.assets import AssetService
from services.cdn.service.registration import Registration
from services.cdn.service.upload_streams import StreamLimits
from services.cdn.service.uploads import UploadService
from services.cdn.store.assets import AssetStore
from services.cdn.store.memory import UploadMemory
from services.cdn.store.objects.compression import Variants
from services.cdn.store.objects.s3 import NoSuchKey
from services.cdn.store.records import Records
from services.cdn.store.retention.garbage_collection import GarbageCollector, GracePeriods
from services.cdn.store.retention.pins import Pins
from services.cdn.store.uploads.completion import UploadCompleter
from services.cdn.store.uploads.sessions import UploadLimits, UploadSessions
from services.cdn.tests.allow_all import AllowAll
from services.cdn.tests.calls import chunk, digest, header
from services.cdn.tests.memory_bucket import CopyingBucket
from services.cdn.tests.stepping import SteppedBucket, SteppedDatabase, SteppedServer, Steps
from services.chassis.serving.background import Chores
from services.chassis.serving.context import Context, Metadata
from services.ledger.service.calls import Mutations
from services.ledger.store.database import DatabaseSettings, connector
from services.ledger.store.pool import Connection, Pool
from services.ledger.store.query_stats import QueryRecorder
from services.ledger.store.replicas import Replicas
from services.ledger.store.servers import Searches
from services.ledger.store.writer import Writer

_CLEAN = """
DELETE FROM pins; DELETE FROM owners; DELETE FROM uploads; DELETE FROM finished_uploads; DELETE FROM assets;
UPDATE totals SET assets = 0, bytes = 0
"""

_LOOK = """
SELECT json_build_object(
    'assets', (SELECT coalesce(json_agg(json_build_array(sha256, state, private)), '[]') FROM assets),
    'pins', (SELECT coalesce(json_agg(json_build_array(owner, sha256)), '[]') FROM pins),
    'miscounted', (SELECT count(*) FROM totals
                    WHERE (assets, bytes) <> (SELECT count(*), coalesce(sum(size_bytes), 0) FROM assets
                                               WHERE state = 'LIVE')),
    'misheld', (SELECT count(*) FROM owners
                 WHERE (assets, bytes) <> (SELECT count(*), coalesce(sum(size_bytes), 0) FROM pins
                                            WHERE pins.owner = owners.owner)))::text
"""

_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class _Call:
    def invocation_metadata(self) -> Metadata | None:
        return None

    def set_trailing_metadata(self, trailing_metadata: Metadata, /) -> None:
        pass

    def trailing_metadata(self) -> Sequence[Any]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def done(self) -> bool:
        return False


def call() -> Context:
    """
    A call without metadata, sufficient for the servicers here.
    """
    return cast("Context", _Call())


class _Store(AssetStore):
    def __init__(self, bucket: CopyingBucket, records: Records) -> None:
        self.bucket, self.memory, self.chores = bucket, UploadMemory(1 << 26), Chores("uploads")
        self.variants = Variants(bucket, least_bytes=1 << 20, most_bytes=1 << 20)
        self._records, self._copies = records, bucket

    async def copy(self, source: str, key: str, size_bytes: int, media_type: str) -> None:
        await self._copies.copy(source, key, size_bytes, media_type)


@dataclass(frozen=True)
class Machine:
    """
    The objects of one service process.
    """

    assets: AssetService
    uploads: UploadService
    registration: Registration
    store: AssetStore
    records: Records
    writer: Writer


def machine(database: SteppedDatabase, bucket: CopyingBucket, grace: GracePeriods) -> Machine:
    """
    Compose a service as `services.cdn.__main__` does.
    """
    records, writer, pins = Records(database), Writer(database), Pins(database, 0)
    store = _Store(bucket, records)
    uploads = UploadSessions(database, UploadLimits(timedelta(hours=1), 100, 100, timedelta(seconds=60)))
    mutations = Mutations(writer)
    rights = AllowAll()
    registration = Registration(records, pins, mutations, rights)
    completer = UploadCompleter(store, records, uploads)
    collection = GarbageCollector(database, writer, bucket)
    return Machine(
        AssetService(store, records, pins, collection, registration, mutations, rights, grace, StreamLimits(60.0)),
        UploadService(store, records, uploads, completer, registration, rights, StreamLimits(60.0)),
        registration,
        store,
        records,
        writer,
    )


async def upload_at_once(machine: Machine, data: bytes, *, private: bool) -> None:
    """
    Upload with AssetService.Upload.
    """
    first = header(data)
    first.header.private = private
    await machine.assets.Upload(stream(first, chunk(0, data)), call())


async def upload_resumably(machine: Machine, data: bytes, *, private: bool) -> None:
    """
    Upload with UploadService.
    """
    start = uploads_pb2.StartUploadRequest(sha256=digest(data), size_bytes=len(data), private=private)
    upload = await machine.uploads.StartUpload(start, call())
    if not upload.complete:
        left = pb.Chunk(offset=upload.committed_bytes, data=data[upload.committed_bytes :])
        await machine.uploads.WriteUpload(stream(uploads_pb2.WriteUploadRequest(name=upload.name, chunk=left)), call())
    await machine.uploads.FinishUpload(uploads_pb2.FinishUploadRequest(name=upload.name), call())


async def stream(*messages: Any) -> AsyncIterator[Any]:
    """
    The messages of a client's stream.
    """
    for message in messages:
        yield message


@dataclass(frozen=True)
class Seen:
    """
    The committed state at one moment.

    Args:
        assets: the state and the key of each digest.
        pins: owner and digest.
    """

    assets: dict[str, tuple[str, str]]
    pins: set[tuple[str, str]]


class Shop:
    """
    The databases of two service processes, their bucket, and a connection that reads the committed state.

    Args:
        bucket: where the bytes are.
        keys: lists all of its keys.
    """

    def __init__(
        self, databases: list[SteppedDatabase], eye: Connection, bucket: CopyingBucket, keys: Callable[[], set[str]]
    ) -> None:
        self.databases, self.eye, self.bucket, self.keys = databases, eye, bucket, keys

    async def begin(self, steps: Steps | None, grace: GracePeriods) -> list[Machine]:
        """
        Compose two services on an empty database and an empty bucket.

        Args:
            steps: None for processes that wait for no turns.
        """
        await self.eye.execute(_CLEAN)
        await self.bucket.delete(sorted(self.keys()))
        self._step(steps)
        bucket = self.bucket if steps is None else SteppedBucket(self.bucket, steps)
        return [machine(each, bucket, grace) for each in self.databases]

    async def end(self, machines: list[Machine]) -> None:
        """
        Wait for background work.
        """
        for each in machines:
            await each.writer.close()
            await each.store.chores.finish(10)
        self._step(None)

    async def waiting(self) -> int:
        """
        The number of statements that wait for a lock.
        """
        found: int = await self.eye.fetchval(_WAITING)
        return found

    async def look(self) -> Seen:
        """
        The committed state; fails if it is inconsistent.
        """
        found = json.loads(await self.eye.fetchval(_LOOK))
        assert not found["miscounted"], "the totals are not the sums"
        assert not found["misheld"], "what owners hold is not the sum of their pins"
        assets = {sha256: (state, asset_key(sha256, private=private)) for sha256, state, private in found["assets"]}
        return Seen(assets, {(owner, sha256) for owner, sha256 in found["pins"]})

    async def has(self, key: str) -> bool:
        """
        Whether there is an object with this key.
        """
        try:
            await self.bucket.head(key)
        except NoSuchKey:
            return False
        return True

    async def age(self, before: float) -> None:
        """
        Subtract two hours from the timestamps of assets that were last touched before a time.

        Args:
            before: seconds since 1970.
        """
        await self.eye.execute(
            """
UPDATE assets SET touch_time = touch_time - interval '2 hours', condemn_time = condemn_time - interval '2 hours'
 WHERE sha256 IN (SELECT sha256 FROM assets
                   WHERE touch_time < to_timestamp($1) AND coalesce(condemn_time, '-infinity') < to_timestamp($1)
                     FOR UPDATE SKIP LOCKED)
""",
            before,
        )

    def _step(self, steps: Steps | None) -> None:
        for each in self.databases:
            each.steps = steps
            assert isinstance(each.primary, SteppedServer)
            each.primary.steps = steps


@asynccontextmanager
async def open_shop(url: str, bucket: CopyingBucket, keys: Callable[[], set[str]]) -> AsyncIterator[Shop]:
    """
    A Shop while the block lasts.

    Args:
        url: of its database.
    """
    settings = DatabaseSettings(url=url)
    pools = [Pool(connector(settings), 2, 20, 20.0) for _ in range(2)]
    servers = [SteppedServer("primary", pool, QueryRecorder(60.0), Searches(2.0, 4)) for pool in pools]
    eye = await asyncpg.connect(url)
    try:
        yield Shop([SteppedDatabase(server, Replicas([], 5.0)) for server in servers], eye, bucket, keys)
    finally:
        for pool in pools:
            await pool.close()
        await eye.close()
