"""
The change stream over a real channel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelyard.changes.v1 import changes_pb2 as pb
from modelyard.registry.v1 import models_pb2
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import DatabaseSettings, open_database
from services.registry.tests.calls import DEFAULT, add_version, create, move, revisions, sql, update, watch
from services.registry.tests.server import Failing, Registry, running

BEAT = Duration(nanos=100_000_000)
Model = models_pb2.Model


async def first(messages: AsyncIterator[pb.WatchChangesResponse]) -> pb.WatchChangesResponse:
    """
    The next message.
    """
    async with asyncio.timeout(10):
        return await anext(messages)


async def test_begins_with_a_heartbeat(registry: Registry) -> None:
    """
    The first message says from where on nothing will be missing, and whether that is the newest revision.
    """
    await create(registry, "m")
    for start, applied in ((0, 2), (1, 0), (2, 1), (3, 2)):
        async with aclosing(watch(registry, start_revision=start)) as messages:
            beat = (await first(messages)).heartbeat
            assert (beat.applied_revision, beat.HasField("current_until")) == (applied, applied == 2)


async def test_a_heartbeat_says_until_when_it_is_current(registry: Registry) -> None:
    """
    Once a stream has caught up, its heartbeats bear a time since its beginning that grows and is never in the future.
    """
    await create(registry, "m")
    began = time.monotonic()
    async with aclosing(watch(registry, start_revision=1, heartbeat_interval=BEAT)) as messages:
        told = [await first(messages) for _ in range(6)]
        assert [each.WhichOneof("event") for each in told[:3]] == ["heartbeat", "revision", "revision"]
        beats = [each.heartbeat for each in told if each.HasField("heartbeat")]
        current = [beat.current_until.ToNanoseconds() / 1e9 for beat in beats[1:]]
        assert not beats[0].HasField("current_until")
        assert current == sorted(current)
        assert 0 <= current[0] < current[-1] <= time.monotonic() - began


async def test_tells_what_happened(registry: Registry) -> None:
    """
    Every revision is streamed once and in order, with all its changes and its commit time.
    """
    await create(registry, "m")
    await update(registry, "m", Model(owner="a"), ["owner"])
    await add_version(registry, "m")
    await move(registry, "m", ("a", 1), ("b", 1))
    await move(registry, "m", ("a", 0))
    told = await revisions(registry, 1, 7)
    kinds = pb.Change
    name = f"{DEFAULT}/models/m"
    assert [each.revision for each in told] == list(range(1, 8))
    assert [list(each.changes) for each in told] == [
        [pb.Change(resource=DEFAULT, kind=kinds.KIND_CREATED, subtree=True)],
        [pb.Change(resource=name, kind=kinds.KIND_CREATED, subtree=True)],
        [pb.Change(resource=name, kind=kinds.KIND_UPDATED)],
        [
            pb.Change(resource=f"{name}/versions/1", kind=kinds.KIND_CREATED),
            pb.Change(resource=name, kind=kinds.KIND_UPDATED),
        ],
        [pb.Change(resource=f"{name}/versions/1", kind=kinds.KIND_UPDATED)],
        [
            pb.Change(resource=f"{name}/aliases/a", kind=kinds.KIND_CREATED),
            pb.Change(resource=f"{name}/aliases/b", kind=kinds.KIND_CREATED),
        ],
        [pb.Change(resource=f"{name}/aliases/a", kind=kinds.KIND_DELETED)],
    ]
    times = [each.commit_time.ToNanoseconds() for each in told]
    assert times == sorted(times)


async def test_waits_for_new_ones(registry: Registry) -> None:
    """
    A write reaches a waiting watcher at once, long before it would look by itself.
    """
    async with aclosing(watch(registry)) as messages:
        await first(messages)
        took = []
        for n in range(5):
            await asyncio.sleep(0.05)
            await create(registry, f"m{n}")
            began = time.monotonic()
            assert (await first(messages)).revision.revision == n + 2
            took.append(time.monotonic() - began)
        assert sorted(took)[2] < 0.5


async def test_heartbeats(registry: Registry) -> None:
    """
    When nothing happens, heartbeats come with the applied revision.
    """
    await create(registry, "m")
    async with aclosing(watch(registry, start_revision=2, heartbeat_interval=BEAT)) as messages:
        assert (await first(messages)).heartbeat.applied_revision == 1
        assert (await first(messages)).revision.revision == 2
        assert [(await first(messages)).heartbeat.applied_revision for _ in range(3)] == [2, 2, 2]


async def test_filter(registry: Registry) -> None:
    """
    With a prefix only changes at or below it are streamed, and changes of a whole subtree that contains it; other
    revisions advance the heartbeat.
    """
    for name in ("m", "mm"):
        await create(registry, name)
        await add_version(registry, name, ready=False)
    prefix = f"{DEFAULT}/models/m"
    told = await revisions(registry, 1, 5, prefix)
    assert [[change.resource for change in each.changes] for each in told] == [
        [DEFAULT],
        [prefix],
        [f"{prefix}/versions/1", prefix],
    ]
    request = {"start_revision": 4, "resource_prefix": f"{prefix}/versions", "heartbeat_interval": BEAT}
    async with aclosing(watch(registry, **request)) as messages:
        assert (await first(messages)).heartbeat.applied_revision == 3
        assert (await first(messages)).heartbeat.applied_revision == 5


async def test_resumes(registry: Registry) -> None:
    """
    A watcher that resumes with the revision after its last one misses nothing and receives nothing twice.
    """
    for n in range(10):
        await create(registry, f"m{n}")
    seen: list[int] = []
    while len(seen) < 11:
        async with aclosing(watch(registry, start_revision=(seen or [0])[-1] + 1)) as messages:
            await first(messages)
            for _ in range(3):
                if len(seen) < 11:
                    seen.append((await first(messages)).revision.revision)
    assert seen == list(range(1, 12))


async def test_long_history(registry: Registry) -> None:
    """
    A watcher that starts far back receives the whole history from the database, and then new revisions.
    """
    fill = """
    WITH bumped AS (UPDATE revision SET value = 1001 RETURNING value)
    INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
    SELECT n, now(), array_fill('namespaces/x'::text, ARRAY[1 + n % 50]), array_fill(2::smallint, ARRAY[1 + n % 50]),
           array_fill(false, ARRAY[1 + n % 50])
      FROM generate_series(2, 1001) AS n, bumped RETURNING 1
    """
    await sql(registry, fill)
    told = await revisions(registry, 1, 1001)
    assert [each.revision for each in told] == list(range(1, 1002))
    assert len(told[500].changes) == 2


async def test_discontinuity(database: str) -> None:
    """
    When the log no longer reaches back far enough, the stream reports a discontinuity and continues after the head.
    """
    async with running(database) as registry:
        for n in range(5):
            await create(registry, f"m{n}")
        await sql(registry, "DELETE FROM changes WHERE revision < 4 RETURNING 1")
    # A process that has the trimmed revisions in memory may still tell them: this one has not.
    async with running(database) as registry:
        async with aclosing(watch(registry, start_revision=2)) as messages:
            gap, beat = (await first(messages)).discontinuity, (await first(messages)).heartbeat
            assert (gap.oldest_revision, gap.head_revision, beat.applied_revision) == (4, 6, 6)
            assert gap.epoch == beat.epoch != ""
            await create(registry, "next")
            assert (await first(messages)).revision.revision == 7
        async with aclosing(watch(registry, start_revision=4)) as messages:
            assert (await first(messages)).heartbeat.applied_revision == 3
            assert (await first(messages)).revision.revision == 4


async def test_trimming_keeps_the_newest(registry: Registry) -> None:
    """
    Trimming deletes old revisions, but never the newest one; stored responses older than a day are deleted, too.
    """
    for n in range(3):
        await create(registry, f"m{n}", request_id=f"r{n}")
    await sql(registry, "UPDATE changes SET commit_time = now() - interval '2 days' WHERE revision <> 3 RETURNING 1")
    await sql(registry, "UPDATE requests SET create_time = now() - interval '25 h' WHERE request_id = 'r1' RETURNING 1")
    async with open_database(DatabaseSettings(url=registry.database)) as database:
        await Changelog(database).trim(timedelta(days=1))
        await Changelog(database).forget()
    assert await sql(registry, "SELECT array_agg(revision ORDER BY revision) FROM changes") == [3, 4]
    assert await sql(registry, "SELECT array_agg(request_id ORDER BY request_id) FROM requests") == ["r0", "r2"]


@pytest.mark.parametrize("deaf", [False, True])
async def test_every_watcher_sees_every_revision(database: str, deaf: bool) -> None:
    """
    64 writers and 8 watchers on two processes' worth of registries: every watcher sees every revision exactly once and
    in order, also when no notification ever arrives.
    """
    async with running(database) as one, running(database) as two:
        if deaf:
            await sql(one, "DROP TRIGGER changes_are_told ON changes")
        watchers = [asyncio.create_task(revisions(each, 1, 1 + 64 * 4)) for each in (one, two) * 4]

        async def write(index: int) -> None:
            registry = (one, two)[index % 2]
            await create(registry, f"m{index}")
            for _ in range(3):
                await add_version(registry, f"m{index}", ready=False)

        await asyncio.gather(*(write(index) for index in range(64)))
        async with asyncio.timeout(20):
            for told in await asyncio.gather(*watchers):
                assert [each.revision for each in told] == list(range(1, 2 + 64 * 4))


async def test_ends_when_the_process_drains(database: str) -> None:
    """
    A stream that would go on for ever ends well when the process is about to end.
    """
    async with running(database) as registry:
        call = registry.changes.WatchChanges(pb.WatchChangesRequest())
        messages = aiter(call)
        await anext(messages)
        registry.server.drain()
        async with asyncio.timeout(2):
            assert [message async for message in messages] == []
        assert await call.code() is grpc.StatusCode.OK


async def test_cancelled_watchers_leave_nothing(registry: Registry) -> None:
    """
    A hundred watchers that are cancelled leave no task behind.
    """
    before = len(asyncio.all_tasks())
    calls = [registry.changes.WatchChanges(pb.WatchChangesRequest()) for _ in range(100)]
    await asyncio.gather(*(call.read() for call in calls))
    for call in calls:
        call.cancel()
    for _ in range(250):
        if len(asyncio.all_tasks()) <= before + 5:
            break
        await asyncio.sleep(0.02)
    assert len(asyncio.all_tasks()) <= before + 5


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("start_revision", pb.WatchChangesRequest(start_revision=-1)),
        ("start_revision", pb.WatchChangesRequest(start_revision=2**63 - 1)),
        ("resource_prefix", pb.WatchChangesRequest(resource_prefix="/namespaces")),
        ("resource_prefix", pb.WatchChangesRequest(resource_prefix="namespaces/")),
        ("resource_prefix", pb.WatchChangesRequest(resource_prefix="a\0")),
        ("heartbeat_interval", pb.WatchChangesRequest(heartbeat_interval=Duration(nanos=99_000_000))),
        ("heartbeat_interval", pb.WatchChangesRequest(heartbeat_interval=Duration(seconds=61))),
        ("heartbeat_interval", pb.WatchChangesRequest(heartbeat_interval=Duration(seconds=-(2**62)))),
    ],
)
async def test_bad_watches(shared: Registry, field: str, request_: pb.WatchChangesRequest) -> None:
    """
    A malformed request is rejected, and the field is named.
    """
    with Failing() as failed:
        async for _ in shared.changes.WatchChanges(request_):
            pass
    assert list(failed.fields) == [field]
