# ruff: noqa: S608 - only numbers of our own go into these texts
"""
Every statement on assets, pins and uploads uses an index: asserted by the planner's plans on large tables.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest

from embedded.postgres import owner
from services.cdn.model import Caller, Draft, UploadWay
from services.cdn.model.formats import Inspection
from services.cdn.store.objects.bucket import Bucket, Part
from services.cdn.store.records import Records, VerifiedBytes
from services.cdn.store.retention.garbage_collection import GarbageCollector, GracePeriods
from services.cdn.store.retention.pins import Pins
from services.cdn.store.uploads.sessions import Progress, UploadLimits, UploadSessions
from services.cdn.store.viewers import Viewer
from services.chassis.access.policies import Readable
from services.chassis.checks import Checks
from services.chassis.errors import Aborted, ResourceExhausted
from services.ledger.model.calls import Write
from services.ledger.model.pages import Page, Query
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import Database, DatabaseSettings, open_database
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction
from services.ledger.store.writer import Writer
from services.ledger.tests.statements import observed

MANY = 100_000
#: A caller that may read some namespaces: what the conditions are there for.
SOME = Viewer(Readable(others=False, names=frozenset({"default", "other"})), "ann")
OWNER = "namespaces/default/models/m7/versions/1"
# Tables of one row; and those of the ledger, which the registry's test covers.
_SMALL = {"epoch", "pg_database", "revision", "totals", "schema_migrations", "changes", "requests", "audit"}
# The number of open uploads is limited by a setting: opening one counts them, and the sweep reads all of them.
# What a caller may read is summed up: here everything is in one namespace.
_COUNTED = {"uploads.open": {"uploads"}, "uploads.known": {"uploads"}, "totals.visible": {"owners"}}

POPULATE = f"""
INSERT INTO assets (sha256, state, size_bytes, media_type, private, create_time, touch_time, condemn_time, revision)
SELECT encode(sha256(n::text::bytea), 'hex'),
       CASE WHEN n % 1000 = 1 THEN 'CONDEMNED' WHEN n % 1000 = 2 THEN 'INCOMING' ELSE 'LIVE' END,
       100, 'text/plain', false, now(), now() - n * interval '1 second',
       CASE WHEN n % 1000 = 1 THEN now() - n * interval '1 second' END, 1
  FROM generate_series(1, {MANY}) AS n;
INSERT INTO pins (owner, sha256, size_bytes, create_time)
SELECT 'namespaces/default/models/m' || n / 10 || '/versions/1', encode(sha256(n::text::bytea), 'hex'), 100, now()
  FROM generate_series(1, {MANY}) AS n WHERE n % 1000 > 2;
INSERT INTO uploaders (sha256, subject) SELECT sha256, 'ann' FROM assets;
INSERT INTO owners (owner, assets, bytes) SELECT owner, count(*), sum(size_bytes) FROM pins GROUP BY owner;
UPDATE totals SET assets = {MANY}, bytes = {MANY} * 100;
INSERT INTO uploads (
    id, sha256, size_bytes, media_type, owner, private, part_bytes, multipart, create_time, expire_time)
SELECT gen_random_uuid(), encode(sha256(n::text::bytea), 'hex'), 100, 'text/plain', '', false, 8388608, n::text,
       now(), now() + n * interval '1 second'
  FROM generate_series(1, {MANY // 10}) AS n;
INSERT INTO upload_parts (upload, number, etag) SELECT id, number, 'x' FROM uploads, generate_series(1, 5) AS number;
INSERT INTO finished_uploads (id, sha256, finish_time)
SELECT gen_random_uuid(), 'x', now() - n * interval '1 second' FROM generate_series(1, {MANY}) AS n;
ANALYZE;
"""


@pytest.fixture(scope="module")
async def url(new_assets_database: Callable[[], str]) -> str:
    """
    A database with many assets.
    """
    url = new_assets_database()
    connection = await asyncpg.connect(owner(url))
    try:
        await connection.execute(POPULATE)
    finally:
        await connection.close()
    return url


Asked = dict[str, tuple[Statement, tuple[Any, ...]]]


@pytest.fixture(scope="module")
async def asked(url: str) -> Asked:
    """
    Every statement that is executed, with the arguments of one call, by name.
    """
    found: Asked = {}

    def see(_connection: object, statement: Statement, args: tuple[Any, ...]) -> None:
        found[statement.name] = (statement, args)

    with observed(url, see):
        async with open_database(DatabaseSettings(url=url)) as database:
            writer = Writer(database)
            for call in (assets, pins, uploads):
                await call(database, writer)
            await Changelog(database).trim(timedelta(days=1))
            await Changelog(database).forget()
    return found


async def assets(database: Database, writer: Writer) -> None:
    """
    Statements on assets, and of garbage collection.
    """
    records, sha256 = Records(database), digest("new")
    await records.find(digest("7"), SOME)
    await records.stored([digest(str(n)) for n in range(1000)], SOME)
    for of in ("", OWNER):
        first = await records.list_page(page("ListAssets", of), of, SOME)
        await records.list_page(page("ListAssets", of, first.token), of, SOME)
    reserved = await records.reserve(sha256, 3, "text/plain", private=True)
    verified = VerifiedBytes(sha256, 3, "text/plain", private=True, reserved=reserved, inspection=Inspection("TEXT"))
    await write(writer, lambda tx: records.register(tx, verified, "ann"))
    public = replace(verified, private=False, reserved=await records.reserve(sha256, 3, "text/plain", private=False))
    await write(writer, lambda tx: records.register(tx, public))
    await write(writer, lambda tx: records.condemn(tx, sha256))
    collection = GarbageCollector(database, writer, cast("Bucket", Emptied()))
    long = GracePeriods(timedelta(seconds=MANY - 100), timedelta(seconds=MANY - 100), timedelta())
    await collection.collect(long, dry=True)
    await collection.collect(long)


class Emptied:
    """
    A bucket that deletes everything.
    """

    async def delete_many(self, *_: object, **__: object) -> set[str]:
        """
        Everything is deleted.
        """
        return set()


async def pins(database: Database, writer: Writer) -> None:
    """
    Statements on pins.
    """
    pins = Pins(database, 1 << 40)
    digests = [digest(str(n)) for n in range(5003, 6000)]
    await write(writer, lambda tx: pins.add(tx, "static/x", digests, SOME))
    await write(writer, lambda tx: pins.remove(tx, "static/x", digests[:3]))
    await write(writer, lambda tx: pins.remove(tx, "static/x", []))

    async def exchange(tx: Transaction) -> None:
        await pins.check_exchange(tx, "static/x", digests[0], 100, digests[1])
        await tx.nothing()

    await write(writer, exchange)
    await pins.check_room(OWNER, 1, SOME)
    prefix = "namespaces/default/models/m77"
    first = await pins.totals(page("GetStorageTotals", prefix), prefix, SOME)
    await pins.totals(page("GetStorageTotals", prefix, first.owners.token), prefix, SOME)


async def uploads(database: Database, _writer: Writer) -> None:
    """
    Statements on upload sessions.
    """
    lease = timedelta(seconds=1)
    uploads, who = UploadSessions(database, UploadLimits(timedelta(days=1), MANY, MANY, lease)), Caller("ann", "ann")
    upload = await uploads.acquire_lease((await uploads.open(Draft(digest("up"), 10, "text/plain"), who)).id)
    with pytest.raises(Aborted):
        await uploads.acquire_lease(upload.id)
    await uploads.renew_lease(upload)
    begun = await uploads.begin(upload, UploadWay.STREAM, "assets/x", "multipart")
    await uploads.record(upload, Progress(Part(1, "etag"), b"state", None))
    await uploads.parts(begun)
    await uploads.release_lease(upload)
    claimed = await uploads.claim(upload.id, 60)
    await uploads.renew_claim(claimed, 60)
    await uploads.release_claim(claimed)
    await uploads.finished(upload.id, upload.draft.sha256)
    await uploads.was_finished(upload.id)
    await uploads.stored(Draft(digest("up"), 10, "text/plain"), who)
    with pytest.raises(ResourceExhausted):
        await UploadSessions(database, UploadLimits(lease, 1, 0, lease)).open(
            Draft(digest("more"), 10, "text/plain"), who
        )
    await uploads.drop(upload.id)
    await uploads.drop_expired()
    await uploads.forget()
    await uploads.unknown(["multipart"])
    await uploads.closed([str(uuid.uuid4())])


def digest(text: str) -> str:
    """
    A made-up digest.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def page(method: str, of: str, token: str = "") -> Page:
    """
    A page of ten.
    """
    return Page.check(Checks(), Query(method, (of,), (str,)), 10, token)


async def write(writer: Writer, work: Callable[[Transaction], Awaitable[object]]) -> None:
    """
    Run a write.
    """
    await writer.run(Write("me", "Test", str(uuid.uuid4()), "", b""), work, lambda _: b"", None)


async def test_reads_leave_the_hot_row_alone(asked: Asked, url: str) -> None:
    """
    No read accesses the row that every write updates, where dead tuples accumulate while a snapshot is open.
    """
    connection = await asyncpg.connect(owner(url))
    hot = set()
    try:
        for name, (statement, args) in asked.items():
            if statement.anywhere:
                plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *args))
                if any(each.get("Relation Name") == "revision" for each in nodes(plan[0]["Plan"])):
                    hot.add(name)
    finally:
        await connection.close()
    assert hot == set()


async def test_every_statement_uses_an_index(asked: Asked, url: str) -> None:
    """
    No statement scans a growing table sequentially.
    """
    assert len(asked) >= 45
    scans: dict[str, set[str]] = {}
    connection = await asyncpg.connect(owner(url))
    try:
        await connection.execute("SET plan_cache_mode = force_custom_plan")
        for name, (statement, args) in sorted(asked.items()):
            if not statement.sql.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
                continue
            plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *args))
            read = {each["Relation Name"] for each in nodes(plan[0]["Plan"]) if each["Node Type"] == "Seq Scan"}
            scans[name] = read - _SMALL - _COUNTED.get(name, set())
    finally:
        await connection.close()
    assert {name: tables for name, tables in scans.items() if tables} == {}


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The nodes of a plan.
    """
    return [plan, *(node for inner in plan.get("Plans", ()) for node in nodes(inner))]
