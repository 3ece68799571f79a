"""
Aliases over a real channel.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.registry.v1 import aliases_pb2 as pb
from services.registry.tests.calls import DEFAULT, add_version, create, move, sql
from services.registry.tests.server import Failing, Registry

MODEL = f"{DEFAULT}/models/m"


async def model_with_versions(registry: Registry, count: int, model: str = "m") -> None:
    """
    A model of `default` with READY versions.
    """
    await create(registry, model)
    for _ in range(count):
        await add_version(registry, model)


async def alias(registry: Registry, name: str, at: Timestamp | None = None, model: str = "m") -> str:
    """
    The last part of the name of the version that an alias points at.
    """
    request = pb.GetAliasRequest(name=f"{DEFAULT}/models/{model}/aliases/{name}", read_time=at)
    return (await registry.aliases.GetAlias(request)).version.rpartition("/")[2]


async def history(registry: Registry, name: str, model: str = "m") -> list[pb.AliasMove]:
    """
    All moves of an alias, the newest first, read in pages of two.
    """
    moves: list[pb.AliasMove] = []
    token = ""
    while True:
        request = pb.ListAliasMovesRequest(
            parent=f"{DEFAULT}/models/{model}/aliases/{name}", page_size=2, page_token=token
        )
        page = await registry.aliases.ListAliasMoves(request)
        moves += page.moves
        token = page.next_page_token
        if not token:
            return moves


async def test_move_and_get(registry: Registry) -> None:
    """
    Several aliases are moved by one call with one revision.
    """
    await model_with_versions(registry, 2)
    moved = await move(registry, "m", ("production", 1), ("staging", 2))
    assert [each.name for each in moved.aliases] == [f"{MODEL}/aliases/production", f"{MODEL}/aliases/staging"]
    assert {each.revision for each in moved.aliases} == {7}
    assert await registry.aliases.GetAlias(pb.GetAliasRequest(name=f"{MODEL}/aliases/staging")) == moved.aliases[1]
    listed = await registry.aliases.ListAliases(pb.ListAliasesRequest(parent=MODEL))
    assert list(listed.aliases) == list(moved.aliases)


async def test_all_or_none(registry: Registry) -> None:
    """
    When one move cannot be done, none is.
    """
    await model_with_versions(registry, 1)
    await add_version(registry, "m", ready=False)
    with Failing() as failed:
        await move(registry, "m", ("production", 1), ("staging", 3))
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    with Failing() as failed:
        await move(registry, "m", ("production", 1), ("staging", 2))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_NOT_READY")
    assert not (await registry.aliases.ListAliases(pb.ListAliasesRequest(parent=MODEL))).aliases


async def test_expected_version(registry: Registry) -> None:
    """
    A move that expects another version than the alias points at is ABORTED.
    """
    await model_with_versions(registry, 3)
    await move(registry, "m", ("production", 1))
    moves = [
        pb.MoveAliasesRequest.Move(
            alias_id="production", version=f"{MODEL}/versions/3", expected_version=f"{MODEL}/versions/2"
        )
    ]
    with Failing() as failed:
        await registry.aliases.MoveAliases(pb.MoveAliasesRequest(parent=MODEL, moves=moves))
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "ALIAS_MOVED")
    moves[0].expected_version = f"{MODEL}/versions/1"
    await registry.aliases.MoveAliases(pb.MoveAliasesRequest(parent=MODEL, moves=moves))
    assert await alias(registry, "production") == "3"


async def test_validate_only(registry: Registry) -> None:
    """
    validate_only says what would be, and moves nothing.
    """
    await model_with_versions(registry, 1)
    would = await move(registry, "m", ("production", 1), validate_only=True)
    assert [each.version for each in would.aliases] == [f"{MODEL}/versions/1"]
    assert not (await registry.aliases.ListAliases(pb.ListAliasesRequest(parent=MODEL))).aliases


async def test_remove(registry: Registry) -> None:
    """
    A removed alias no longer exists, but its history is retained; removing an alias that does not exist is no move.
    """
    await model_with_versions(registry, 1)
    await move(registry, "m", ("production", 1))
    assert not (await move(registry, "m", ("production", 0))).aliases
    with Failing() as failed:
        await alias(registry, "production")
    assert failed.reason == "ALIAS_NOT_FOUND"
    assert [each.version for each in await history(registry, "production")] == ["", f"{MODEL}/versions/1"]
    before = await sql(registry, "SELECT value FROM revision")
    await move(registry, "m", ("production", 0), ("never", 0))
    assert await sql(registry, "SELECT value FROM revision") == before
    with Failing() as failed:
        await history(registry, "never")
    assert failed.reason == "ALIAS_NOT_FOUND"


async def test_same_version_is_no_move(registry: Registry) -> None:
    """
    Pointing an alias where it points answers it as it is, and adds nothing to its history.
    """
    await model_with_versions(registry, 1)
    first = await move(registry, "m", ("production", 1))
    again = await move(registry, "m", ("production", 1))
    assert first == again
    assert len(await history(registry, "production")) == 1


async def test_as_it_was(registry: Registry) -> None:
    """
    GetAlias with a time returns the version that the alias pointed at then; a future time is rejected.
    """
    await model_with_versions(registry, 3)
    for number in (1, 2, 3):
        await move(registry, "m", ("production", number))
    periods = (await history(registry, "production"))[::-1]
    assert [each.version for each in periods] == [f"{MODEL}/versions/{number}" for number in (1, 2, 3)]
    for number, period in enumerate(periods, start=1):
        assert await alias(registry, "production", period.start_time) == str(number)
    assert not periods[2].HasField("end_time")
    before = Timestamp()
    before.FromNanoseconds(periods[0].start_time.ToNanoseconds() - 1000)
    with Failing() as failed:
        await alias(registry, "production", before)
    assert failed.reason == "ALIAS_NOT_FOUND"
    future = Timestamp()
    future.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    with Failing() as failed:
        await alias(registry, "production", future)
    assert list(failed.fields) == ["read_time"]


async def test_history_cannot_overlap(registry: Registry) -> None:
    """
    The database itself refuses a history in which an alias points at two versions at once.
    """
    await model_with_versions(registry, 2)
    await move(registry, "m", ("production", 1))
    overlap = """
    INSERT INTO aliases (model, alias, version, valid, actor, revision)
    SELECT model, alias, 2, tstzrange(lower(valid), lower(valid) + interval '1 h'), '', 0 FROM aliases RETURNING 1
    """
    with pytest.raises(asyncpg.ExclusionViolationError):
        await sql(registry, overlap)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3)), min_size=1, max_size=8), data=st.data()
)
async def test_history_is_what_happened(shared: Registry, moves: list[tuple[str, int]], data: st.DataObject) -> None:
    """
    Whatever is moved, each alias's history is the sequence of its real moves: joined without gaps, the last one open.
    """
    head = await sql(shared, "SELECT value FROM revision")
    model = f"h{head}"
    await model_with_versions(shared, 3, model)
    expected: dict[str, list[int]] = {"a": [], "b": []}
    for name, number in moves:
        await move(shared, model, (name, number))
        if number != (expected[name][-1] if expected[name] else 0):
            expected[name].append(number)
    for name, numbers in expected.items():
        if not numbers:
            continue
        periods = (await history(shared, name, model))[::-1]
        assert [int(each.version.rpartition("/")[2] or 0) for each in periods] == numbers
        for earlier, later in pairwise(periods):
            assert earlier.end_time == later.start_time
            assert earlier.revision < later.revision


async def test_concurrent_moves(registry: Registry) -> None:
    """
    However many move an alias at once, its history is whole and ends with the newest revision's move.
    """
    await model_with_versions(registry, 3)
    answers = await asyncio.gather(*(move(registry, "m", ("production", 1 + index % 3)) for index in range(30)))
    periods = await history(registry, "production")
    assert periods[0].revision == max(answer.aliases[0].revision for answer in answers)
    for later, earlier in pairwise(periods):
        assert earlier.end_time == later.start_time


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("parent", pb.MoveAliasesRequest(moves=[pb.MoveAliasesRequest.Move(alias_id="a")])),
        ("moves", pb.MoveAliasesRequest(parent=MODEL)),
        (
            "moves",
            pb.MoveAliasesRequest(
                parent=MODEL, moves=[pb.MoveAliasesRequest.Move(alias_id=f"a{n}") for n in range(101)]
            ),
        ),
        ("moves[0].alias_id", pb.MoveAliasesRequest(parent=MODEL, moves=[pb.MoveAliasesRequest.Move(alias_id=".a")])),
        (
            "moves[1].alias_id",
            pb.MoveAliasesRequest(parent=MODEL, moves=[pb.MoveAliasesRequest.Move(alias_id="a")] * 2),
        ),
        (
            "moves[0].version",
            pb.MoveAliasesRequest(parent=MODEL, moves=[pb.MoveAliasesRequest.Move(alias_id="a", version="3")]),
        ),
        (
            "moves[0].version",
            pb.MoveAliasesRequest(
                parent=MODEL, moves=[pb.MoveAliasesRequest.Move(alias_id="a", version=f"{DEFAULT}/models/n/versions/1")]
            ),
        ),
        (
            "moves[0].expected_version",
            pb.MoveAliasesRequest(parent=MODEL, moves=[pb.MoveAliasesRequest.Move(alias_id="a", expected_version="x")]),
        ),
    ],
)
async def test_bad_moves(shared: Registry, field: str, request_: pb.MoveAliasesRequest) -> None:
    """
    A malformed move is rejected, and the field is named.
    """
    with Failing() as failed:
        await shared.aliases.MoveAliases(request_)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]
