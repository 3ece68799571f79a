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
    async with asyncio.timeout(5):
        while (await cache.read()).owner != owner:
            await asyncio.sleep(0.01)


async def applied(cache: Cache) -> int:
    status = cache_pb2_grpc.CacheAdminServiceStub(cache.channel).GetStatus
    return int((await status(cache_pb2.GetStatusRequest())).streams[0].applied_revision)


async def until_told(cache: Cache, origin: Origin) -> None:
    async with asyncio.timeout(5):
        while await applied(cache) < origin.revision:
            await asyncio.sleep(0.01)


async def every_moment(change: Callable[[], Awaitable[object]]) -> None:
    while True:
        await change()
        await asyncio.sleep(0.1)


async def test_the_second_read_is_from_memory(cache: Cache, origin: Origin) -> None:
    """
    What was read once is answered from this process, and the answer says so, how old it is and what it reflects.
    """
    await cache.warm()
    calls = origin.calls
    answer = await cache.read()
    assert (answer.owner, answer.cache, answer.trailing["x-revision"]) == ("first", "near", str(origin.revision))
    assert answer.trailing["age"].isdecimal()
    assert origin.calls == calls


async def test_another_process_is_served_from_valkey(cache: Cache, target: str, store: Backend, origin: Origin) -> None:
    """
    What one process keeps serves the others, by the same comparison.
    """
    await cache.warm()
    async with running(target, store) as other:
        status = cache_pb2_grpc.CacheAdminServiceStub(other.channel).GetStatus
        async with asyncio.timeout(5):
            while not (await status(cache_pb2.GetStatusRequest())).streams[0].connected:
                await asyncio.sleep(0.02)
        answer = await other.read()
        assert (answer.owner, answer.cache) == ("first", "shared")
        assert (await other.read()).cache == "near"


async def test_a_write_is_seen_at_once_by_who_knows_of_it(cache: Cache, origin: Origin) -> None:
    """
    A read with `x-min-revision` never answers from before that revision.
    """
    await cache.warm()
    for number in range(20):
        revision = await origin.write(f"owner {number}")
        assert (await cache.read(x_min_revision=str(revision))).owner == f"owner {number}"


async def test_a_write_is_seen_by_all_once_the_stream_has_told(cache: Cache, origin: Origin) -> None:
    """
    Without `x-min-revision` the old answer goes when the change arrives, and never comes back.
    """
    await cache.warm()
    await origin.write("second")
    await until_fresh(cache, "second")
    assert {(await cache.read()).owner for _ in range(50)} == {"second"}


async def test_a_slow_fill_from_before_a_write_is_never_served(cache: Cache, origin: Origin) -> None:
    """
    An answer that was read before a write, and comes in after the write was told, serves its own caller only.
    """
    await cache.warm()
    await origin.write("second")
    await until_fresh(cache, "second")
    await origin.write("third")
    origin.gate.clear()
    async with asyncio.timeout(5):
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
    A stream that says nothing stops the serving from memory within the bound; it goes on where it was.
    """
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()
        origin.silent = True
        await origin.write("second")
        async with asyncio.timeout(8):
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
    A stream that is back, and has not yet told what happened meanwhile, does not go on with the serving from memory.
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
    What a stream says is current is reckoned from when it was asked for: one that took longer than the bound to begin
    would never make anything current.
    """
    origin.late = 0.8
    async with running(target, store, MODELYARD_CACHE_STREAM_BOUND_SECONDS="0.5") as cache:
        await cache.warm()


async def test_a_slow_origin_is_followed_and_keeps_the_cache_on(target: str, store: Backend, origin: Origin) -> None:
    """
    Where every stream takes a second to begin and every answer, too, changes are learnt and memory serves what they
    have not touched: a registry under load is not sent all reads on top.
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


async def test_a_stream_that_is_too_late_to_keep_anything_valid_tells_its_revisions(
    target: str, store: Backend, origin: Origin
) -> None:
    """
    A stream that takes longer than the bound to begin makes nothing current; what it tells is learnt all the same.
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
    A stream that breaks is taken up where it was, with what changed meanwhile.
    """
    await cache.warm()
    for number in range(5):
        await origin.break_streams()
        await origin.write(f"owner {number}")
        await until_fresh(cache, f"owner {number}")
        await cache.warm()


async def test_a_gap_in_the_log_drops_everything(cache: Cache, origin: Origin) -> None:
    """
    After a Discontinuity nothing that was kept before is served.
    """
    await cache.warm()
    await origin.break_streams()
    # The change itself is gone from the log: only the gap tells.
    await origin.write("second")
    origin.oldest, origin.log = origin.revision + 1, []
    await until_fresh(cache, "second")
    assert {(await cache.read()).owner for _ in range(50)} == {"second"}


async def test_a_new_process_does_not_trust_what_it_cannot_judge(
    cache: Cache, target: str, store: Backend, origin: Origin
) -> None:
    """
    A process that starts after a write does not serve what another one stored before the write.
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


async def test_errors_come_through_to_the_letter_and_are_not_kept(cache: Cache, origin: Origin) -> None:
    """
    An error keeps its code and message, and is asked for again the next time.
    """
    await cache.warm()
    calls, origin.away = origin.calls, True
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await cache.read(f"{NAME}-other")
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNAVAILABLE, "away")
    assert origin.calls == calls + 2


async def test_what_is_too_large_or_says_no_revision_is_not_kept(cache: Cache, origin: Origin) -> None:
    """
    Answers above the bound and answers that nobody can judge are passed on and forgotten.
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
    Calls that miss together ask the origin once.
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


async def test_who_knows_more_does_not_wait_for_an_older_load(cache: Cache, origin: Origin) -> None:
    """
    A caller whose `x-min-revision` is newer than a load that it waited for gets an answer of its own.
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


async def test_who_comes_later_does_not_get_what_is_known_to_be_replaced(cache: Cache, origin: Origin) -> None:
    """
    A caller who comes after the stream has told of a change does not get the answer of a load that began before it: one
    more load serves everybody who has come since.
    """
    await cache.warm()
    await origin.write("old", f"{NAME}-cold")
    calls = origin.calls
    origin.gate.clear()
    first = asyncio.create_task(cache.read(f"{NAME}-cold"))
    async with asyncio.timeout(5):
        while origin.calls == calls:
            await asyncio.sleep(0.01)
        await origin.write("new", f"{NAME}-cold")
        await until_told(cache, origin)
        later = [asyncio.create_task(cache.read(f"{NAME}-cold")) for _ in range(20)]
        await asyncio.sleep(0.2)
        origin.gate.set()
        assert {(await each).owner for each in later} == {"new"}
        assert (await first).owner == "old"
    assert origin.calls == calls + 2


async def test_who_has_seen_something_else_waits_for_the_same_load(cache: Cache, origin: Origin) -> None:
    """
    Callers whose `x-min-revision` is newer than a load, but of a change that does not concern it, make no load of their
    own.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    calls = origin.calls
    origin.gate.clear()
    first = asyncio.create_task(cache.read(f"{NAME}-cold"))
    async with asyncio.timeout(5):
        while origin.calls == calls:
            await asyncio.sleep(0.01)
        revision = await origin.write("other")
        await until_told(cache, origin)
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
async def test_who_began_a_load_fails_alone(
    cache: Cache, origin: Origin, metadata: dict[str, str], refused: grpc.StatusCode
) -> None:
    """
    What the origin says to the one who began a load, of a revision that was made up or of a token, is not said to those
    who came later.
    """
    await cache.warm()
    await origin.write("cold", f"{NAME}-cold")
    origin.gate.clear()
    calls = origin.calls
    bad = asyncio.create_task(cache.read(f"{NAME}-cold", **metadata))
    async with asyncio.timeout(5):
        while origin.calls == calls:
            await asyncio.sleep(0.01)
    good = [asyncio.create_task(cache.read(f"{NAME}-cold")) for _ in range(5)]
    await asyncio.sleep(0.2)
    origin.gate.set()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bad
    assert failed.value.code() is refused
    assert {answer.owner for answer in await asyncio.gather(*good)} == {"cold"}


async def test_a_caller_that_gives_up_takes_nobody_with_it(cache: Cache, origin: Origin) -> None:
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
    It is INVALID_ARGUMENT at once, for the origin would say nothing else, and nothing to look at in the log.
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
    Who asks for no revision gets an answer, although this process knows of a newer one that is no more; who asks for
    that one is told that there is none.
    """
    cache = new_cache
    await cache.warm()
    revision = await origin.write("second")
    await cache.read(x_min_revision=str(revision))
    await origin.write("third")
    await until_told(cache, origin)
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
    Under random reads and writes through two processes, with streams that break, no read with `x-min-revision` answers
    from before it.
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


async def test_status_tells_where_the_stream_is(cache: Cache, origin: Origin) -> None:
    """
    GetStatus says what is kept, and how far the stream has come.
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
    Whatever is raised while changes are followed, they are followed again: the cache serves from memory afterwards, and
    the failure is counted.
    """
    await cache.warm()
    take, mistakes = Follower._take, [ZeroDivisionError("a mistake")]

    def mistaken(self: Follower, event: Any, asked: float) -> None:
        if mistakes:
            raise mistakes.pop()
        take(self, event, asked)

    failures = cache.number("modelyard_background_failures_total", task="follow-registry")
    monkeypatch.setattr(Follower, "_take", mistaken)
    await origin.write("second")
    async with asyncio.timeout(10):
        while (await cache.read()).owner != "second" or (await cache.read()).cache != "near":
            await asyncio.sleep(0.02)
    assert not mistakes
    assert cache.number("modelyard_background_failures_total", task="follow-registry") > failures


async def test_a_renewed_token_leaves_no_gap(target: str, store: Backend, origin: Origin, tmp_path: Path) -> None:
    """
    A stream that ends because its token does is begun again with the one that the file holds by then, and all the while
    reads are served from memory.
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
        async with asyncio.timeout(10):
            while "Bearer another" not in origin.tokens:
                seen.add((await cache.read()).cache)
                await asyncio.sleep(0.005)
        await origin.write("second")
        await until_fresh(cache, "second")
        assert seen <= {"near"}
