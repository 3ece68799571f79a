from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelyard.cache.v1 import cache_pb2, cache_pb2_grpc
from modelyard.registry.v1 import models_pb2, models_pb2_grpc
from services.cache.read_through.follower import Follower
from services.cache.tests.harness import NAME, Backend, Cache, Origin, running


async def until_fresh(cache: Cache, owner: str) -> None:
    async with asyncio.timeout(30):
        while (await cache.read()).owner != owner:
            await asyncio.sleep(0.01)


async def applied(cache: Cache) -> int:
    status = cache_pb2_grpc.CacheAdminServiceStub(cache.channel).GetStatus
    return int((await status(cache_pb2.GetStatusRequest())).streams[0].applied_revision)


async def until_applied(cache: Cache, origin: Origin) -> None:
    async with asyncio.timeout(30):
        while await applied(cache) < origin.revision:
            await asyncio.sleep(0.01)


async def every_moment(change: Callable[[], Awaitable[object]]) -> None:
    while True:
        await change()
        await asyncio.sleep(0.1)


async def test_the_second_read_is_from_memory(cache: Cache, origin: Origin) -> None:
    """
    A second read is answered from L1, with its level, age and revision in the trailing metadata.
    """
    await cache.warm()
    calls = origin.calls
    answer = await cache.read()
    assert (answer.owner, answer.cache, answer.trailing["x-revision"]) == ("first", "near", str(origin.revision))
    assert answer.trailing["age"].isdecimal()
    assert origin.calls == calls


async def test_another_process_is_served_from_valkey(cache: Cache, target: str, store: Backend, origin: Origin) -> None:
    """
    Entries that one process stored in L2 serve the others, after the same validation.
    """
    await cache.warm()
    async with running(target, store) as other:
        status = cache_pb2_grpc.CacheAdminServiceStub(other.channel).GetStatus
        async with asyncio.timeout(30):
            while not (await status(cache_pb2.GetStatusRequest())).streams[0].connected:
                await asyncio.sleep(0.02)
        answer = await other.read()
        assert (answer.owner, answer.cache) == ("first", "shared")
        assert (await other.read()).cache == "near"


async def test_a_write_is_seen_at_once_with_its_revision(cache: Cache, origin: Origin) -> None:
    """
    A read with `x-min-revision` never returns an older revision.
    """
    await cache.warm()
    for number in range(20):
        revision = await origin.write(f"owner {number}")
        assert (await cache.read(x_min_revision=str(revision))).owner == f"owner {number}"


async def test_a_write_is_seen_by_all_once_the_stream_delivers_it(cache: Cache, origin: Origin) -> None:
    """
    Without `x-min-revision`, the old answer is no longer served once the change has arrived.
    """
    await cache.warm()
    await origin.write("second")
    await until_fresh(cache, "second")
    assert {(await cache.read()).owner for _ in range(50)} == {"second"}


async def test_a_slow_fill_from_before_a_write_is_never_served(cache: Cache, origin: Origin) -> None:
    """
    An answer that was read before a write, and arrives after its change did, is returned to its own caller only.
    """
    await cache.warm()
    await origin.write("second")
    await until_fresh(cache, "second")
    await origin.write("third")
    origin.gate.clear()
    async with asyncio.timeout(30):
        slow = asyncio.create_task(cache.read(x_min_revision=str(origin.revision)))
        calls = origin.calls
        while origin.calls == calls:
            await asyncio.sleep(0.01)
        await origin.write("fourth")
        await asyncio.sleep(0.3)
        origin.gate.set()
        assert (await slow).owner == "third"
    assert {(await cache.read()).owner for _ in range(50)} == {"fourth"}


async def test_nothing_is_served_from_memory_while_the_stream_is_silent(
    target: str, store: Backend, origin: Origin
) -> None:
    """
    When the stream is silent, nothing is served from L1 after the bound; the stream then continues where it was.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()
        origin.silent = True
        await origin.write("second")
        async with asyncio.timeout(30):
            while (answer := await cache.read()).cache != "bypass":
                await asyncio.sleep(0.05)
        assert answer.owner == "second"
        await origin.write("third")
        assert (await cache.read()).owner == "third"
        origin.silent = False
        await cache.warm()
        assert (await cache.read()).owner == "third"


async def test_a_stream_that_is_behind_makes_nothing_current(target: str, store: Backend, origin: Origin) -> None:
    """
    A stream that reconnected, and has not yet delivered the missed changes, does not make entries valid.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()
        origin.backlog.clear()
        await origin.write("second")
        await origin.break_streams()
        await origin.write("third")
        await asyncio.sleep(1.0)
        answer = await cache.read()
        assert (answer.owner, answer.cache) == ("third", "bypass")
        origin.backlog.set()
        await cache.warm()
        assert (await cache.read()).owner == "third"


async def test_a_stream_that_begins_late_is_asked_for_again(target: str, store: Backend, origin: Origin) -> None:
    """
    The freshness that a stream reports is counted from the moment of the call: a stream that took longer than the
    bound to start would never make entries valid, so another one is opened.
    """
    origin.late = 0.8
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()


async def test_a_slow_origin_is_followed_and_keeps_the_cache_on(target: str, store: Backend, origin: Origin) -> None:
    """
    When streams take a second to start, and so do answers, changes are applied and other entries are served from L1:
    a registry under load does not get all reads in addition.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="2") as cache:
        await cache.warm()
        origin.always_late = origin.slowness = 1.2
        await origin.break_streams()
        writing = asyncio.create_task(every_moment(lambda: origin.write("x", f"{NAME}-other")))
        try:
            # Of streams that began late; the ones before them have ended.
            after = origin.revision + 20
            async with asyncio.timeout(30):
                while await applied(cache) < after:
                    await asyncio.sleep(0.05)
                while (await cache.read()).cache != "near":
                    await asyncio.sleep(0.05)
        finally:
            writing.cancel()


async def test_the_revisions_of_a_late_stream_are_applied(target: str, store: Backend, origin: Origin) -> None:
    """
    A stream that takes longer than the bound to start makes no entries valid; its changes are applied all the same.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()
        origin.always_late = 1.0
        await origin.write("second")
        await origin.break_streams()
        await until_fresh(cache, "second")
        writing = asyncio.create_task(every_moment(lambda: origin.write("x", f"{NAME}-other")))
        try:
            after = origin.revision + 20
            async with asyncio.timeout(30):
                while await applied(cache) < after:
                    await asyncio.sleep(0.05)
                    assert (await cache.read()).owner == "second"
        finally:
            writing.cancel()


async def test_changes_during_a_break_are_not_missed(cache: Cache, origin: Origin) -> None:
    """
    After a break, the stream continues where it was, with the changes made meanwhile.
    """
    await cache.warm()
    for number in range(5):
        await origin.break_streams()
        await origin.write(f"owner {number}")
        await until_fresh(cache, f"owner {number}")
        await cache.warm()


async def test_a_gap_in_the_log_drops_everything(cache: Cache, origin: Origin) -> None:
    """
    After a Discontinuity, no older entry is served.
    """
    await cache.warm()
    await origin.break_streams()
    # The change itself is no longer in the log: only the gap indicates it.
    await origin.write("second")
    origin.oldest, origin.log = origin.revision + 1, []
    await until_fresh(cache, "second")
    assert {(await cache.read()).owner for _ in range(50)} == {"second"}


async def test_a_new_process_does_not_serve_what_it_cannot_validate(
    cache: Cache, target: str, store: Backend, origin: Origin
) -> None:
    """
    A process that starts after a write does not serve an entry that another one stored before it.
    """
    await cache.warm()
    await origin.write("second")
    async with running(target, store) as other:
        assert {(await other.read()).owner for _ in range(100)} == {"second"}


async def test_no_cache_asks_the_origin(cache: Cache, origin: Origin) -> None:
    """
    `cache-control: no-cache` is answered by the origin.
    """
    await cache.warm()
    calls = origin.calls
    assert (await cache.read(cache_control="no-cache")).cache == "bypass"
    assert origin.calls == calls + 1


async def test_errors_are_forwarded_unchanged_and_not_cached(cache: Cache, origin: Origin) -> None:
    """
    An error keeps its code and message, and the next read calls the origin again.
    """
    await cache.warm()
    calls, origin.away = origin.calls, True
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await cache.read(f"{NAME}-other")
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNAVAILABLE, "away")
    assert origin.calls == calls + 2


async def test_large_answers_and_answers_without_a_revision_are_not_cached(cache: Cache, origin: Origin) -> None:
    """
    Answers above the maximum size, and answers that cannot be validated, are forwarded and not cached.
    """
    await cache.warm()
    for name in ("large", "unsure"):
        await origin.write("x", f"{NAME}-{name}")
    origin.size = 1_100_000
    assert {(await cache.read(f"{NAME}-large")).cache for _ in range(3)} == {"miss"}
    origin.size, origin.says_revision = 0, False
    assert {(await cache.read(f"{NAME}-unsure")).cache for _ in range(3)} == {"miss"}


async def test_many_callers_of_a_cold_key_are_one_load(cache: Cache, origin: Origin) -> None:
    """
    Concurrent misses call the origin once.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    calls = origin.calls
    origin.gate.clear()
    reads = [asyncio.create_task(cache.read(f"{NAME}-cold")) for _ in range(50)]
    await asyncio.sleep(0.3)
    origin.gate.set()
    assert {answer.owner for answer in await asyncio.gather(*reads)} == {"cold"}
    assert origin.calls == calls + 1


async def test_a_newer_minimum_gets_its_own_load(cache: Cache, origin: Origin) -> None:
    """
    A caller whose `x-min-revision` is newer than the load that it joined calls the origin itself.
    """
    await cache.warm()
    await origin.write("old", f"{NAME}-cold")
    origin.gate.clear()
    first = asyncio.create_task(cache.read(f"{NAME}-cold"))
    await asyncio.sleep(0.2)
    revision = await origin.write("new", f"{NAME}-cold")
    second = asyncio.create_task(cache.read(f"{NAME}-cold", x_min_revision=str(revision)))
    await asyncio.sleep(0.2)
    origin.gate.set()
    assert (await second).owner == "new"
    await first


async def test_a_later_caller_gets_no_answer_known_to_be_replaced(cache: Cache, origin: Origin) -> None:
    """
    A caller that arrives after a change does not get the answer of a load that started before it: one more load serves
    all later callers.
    """
    # Other reads are refreshed meanwhile.
    calls, name = origin.calls_of, f"{NAME}-cold"
    await cache.warm()
    await origin.write("old", name)
    origin.gate.clear()
    first = asyncio.create_task(cache.read(name))
    async with asyncio.timeout(30):
        while not calls[name]:
            await asyncio.sleep(0.01)
        await origin.write("new", name)
        await until_applied(cache, origin)
        later = [asyncio.create_task(cache.read(name)) for _ in range(20)]
        await asyncio.sleep(0.2)
        origin.gate.set()
        assert {(await each).owner for each in later} == {"new"}
        assert (await first).owner == "old"
    assert calls[name] == 2


async def test_a_minimum_of_another_change_shares_the_load(cache: Cache, origin: Origin) -> None:
    """
    Callers whose `x-min-revision` is newer than a load, but of an unrelated change, share that load.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    calls = origin.calls
    origin.gate.clear()
    first = asyncio.create_task(cache.read(f"{NAME}-cold"))
    async with asyncio.timeout(30):
        while origin.calls == calls:
            await asyncio.sleep(0.01)
        revision = await origin.write("other")
        await until_applied(cache, origin)
        later = [asyncio.create_task(cache.read(f"{NAME}-cold", x_min_revision=str(revision))) for _ in range(20)]
        await asyncio.sleep(0.2)
        origin.gate.set()
        assert {(await each).owner for each in [first, *later]} == {"cold"}
    assert origin.calls == calls + 1


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"x_min_revision": "999999999999"}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"x_modelyard_subject": "refused"}, grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_the_caller_that_started_a_load_fails_alone(
    cache: Cache, origin: Origin, metadata: dict[str, str], refused: grpc.StatusCode
) -> None:
    """
    An error that concerns the caller that started a load, such as its token or a made-up revision, is not returned to
    those that joined it.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    origin.gate.clear()
    calls = origin.calls
    bad = asyncio.create_task(cache.read(f"{NAME}-cold", **metadata))
    async with asyncio.timeout(30):
        while origin.calls == calls:
            await asyncio.sleep(0.01)
    good = [asyncio.create_task(cache.read(f"{NAME}-cold")) for _ in range(5)]
    await asyncio.sleep(0.2)
    origin.gate.set()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bad
    assert failed.value.code() is refused
    assert {answer.owner for answer in await asyncio.gather(*good)} == {"cold"}


async def test_a_cancelled_caller_does_not_cancel_the_load(cache: Cache, origin: Origin) -> None:
    """
    The load goes on for those who still wait when the one who began it is gone.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    origin.gate.clear()
    first = asyncio.create_task(cache.read(f"{NAME}-cold"))
    await asyncio.sleep(0.2)
    second = asyncio.create_task(cache.read(f"{NAME}-cold"))
    await asyncio.sleep(0.2)
    first.cancel()
    origin.gate.set()
    assert (await second).owner == "cold"


async def test_a_bad_minimum_is_named(cache: Cache) -> None:
    """
    An `x-min-revision` that is not a number is INVALID_ARGUMENT.
    """
    for bad in ("x", "-1", "1.5", "9" * 30):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cache.read(x_min_revision=bad)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "x-min-revision" in str(refused.value.details()) + str(refused.value.trailing_metadata())


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["wire format", "UTF-8"])
async def test_what_does_not_parse_is_refused(
    cache: Cache, origin: Origin, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """
    It is INVALID_ARGUMENT without a call to the origin, and not logged as an error.
    """
    await cache.warm()
    calls = origin.calls
    ask: Any = cache.channel.unary_unary("/modelyard.registry.v1.ModelService/GetModel", None, None)
    with caplog.at_level("ERROR"), pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(body, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused.value.details()).startswith("the request does not parse")
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (origin.calls, errors) == (calls, [])


async def test_an_origin_that_was_set_back_answers(new_cache: Cache, origin: Origin) -> None:
    """
    A read without a minimum is answered, although this process has seen a newer revision that was lost; a read with the
    lost revision as its minimum is FAILED_PRECONDITION.
    """
    cache = new_cache
    await cache.warm()
    revision = await origin.write("second")
    await cache.read(x_min_revision=str(revision))
    await origin.write("third")
    await until_applied(cache, origin)
    lost, origin.revision = origin.revision, revision - 1
    assert (await cache.read()).owner == "third"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cache.read(x_min_revision=str(lost))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_writes_are_not_the_caches(cache: Cache) -> None:
    """
    An RPC without a policy is not served here.
    """
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await models_pb2_grpc.ModelServiceStub(cache.channel).UpdateModel(models_pb2.UpdateModelRequest())
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_no_read_is_older_than_what_its_caller_knows(cache: Cache, other: Cache, origin: Origin) -> None:
    """
    Under random reads and writes through two processes, with streams that break, no read with `x-min-revision` returns
    an older answer.
    """
    dice = random.Random(20261123)  # noqa: S311 - the same steps in every run
    names = [f"{NAME}-{number}" for number in range(5)]
    written = {name: await origin.write("0", name) for name in names}
    for step in range(200):
        name = dice.choice(names)
        match dice.randrange(10):
            case 0 | 1:
                written[name] = await origin.write(str(step), name)
            case 2 if step % 20 == 0:
                await origin.break_streams()
            case _:
                reader = dice.choice((cache, other))
                answer = await reader.read(name, x_min_revision=str(written[name]))
                assert answer.owner == origin.owners[name]


async def test_status_reports_the_stream(cache: Cache, origin: Origin) -> None:
    """
    GetStatus returns the size of L1 and the position of the streams.
    """
    await cache.warm()
    status = await cache_pb2_grpc.CacheAdminServiceStub(cache.channel).GetStatus(cache_pb2.GetStatusRequest())
    streams = {stream.service: (stream.connected, stream.applied_revision) for stream in status.streams}
    assert streams == {"registry": (True, origin.revision), "cdn": (False, 0)}
    assert status.near_entries == 1
    assert status.near_bytes > 0
    assert status.breaker_state == "closed"


async def test_an_unforeseen_error_does_not_end_the_stream(
    cache: Cache, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After an unexpected exception the change stream is followed again: L1 serves afterwards, and the failure is counted.
    """
    await cache.warm()
    take, errors = Follower._apply, [ZeroDivisionError("unexpected")]

    def failing(self: Follower, event: Any, asked: float) -> None:
        if errors:
            raise errors.pop()
        take(self, event, asked)

    failures = cache.number("modelyard_background_failures_total", task="follow-registry")
    monkeypatch.setattr(Follower, "_apply", failing)
    await origin.write("second")
    async with asyncio.timeout(30):
        while (await cache.read()).owner != "second" or (await cache.read()).cache != "near":
            await asyncio.sleep(0.02)
    assert not errors
    assert cache.number("modelyard_background_failures_total", task="follow-registry") > failures


async def test_a_renewed_token_leaves_no_gap(target: str, store: Backend, origin: Origin, tmp_path: Path) -> None:
    """
    A stream that ends because its token expired is reopened with the current token of the file, and all reads are
    served from L1 meanwhile.
    """
    file = tmp_path / "token"
    file.write_text("one")
    origin.breaks_with = grpc.StatusCode.UNAUTHENTICATED
    async with running(target, store, MODELYARD_SERVICE_TOKEN_FILE=str(file)) as cache:
        await cache.warm()
        # The caches of the other tests have no token.
        assert set(origin.tokens) - {""} == {"Bearer one"}
        file.write_text("another")
        await origin.break_streams()
        seen = set()
        async with asyncio.timeout(30):
            while "Bearer another" not in origin.tokens:
                seen.add((await cache.read()).cache)
                await asyncio.sleep(0.005)
        await origin.write("second")
        await until_fresh(cache, "second")
        assert seen <= {"near"}
