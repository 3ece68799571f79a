"""
Evaluations and leaderboards over a real channel.
"""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.registry.v1 import evaluations_pb2 as pb
from modelyard.registry.v1 import imports_pb2, models_pb2, versions_pb2
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    import_items,
    record,
    result,
    revisions,
    sql,
)
from services.registry.tests.server import Failing, Registry

Item = imports_pb2.ImportModelsRequest.Item


async def listed(registry: Registry, parent: str, **more: Any) -> list[pb.Evaluation]:
    """
    The results of a model or a version, all pages of them.
    """
    found: list[pb.Evaluation] = []
    request = pb.ListEvaluationsRequest(parent=f"{DEFAULT}/models/{parent}", page_size=3, **more)
    while True:
        page = await registry.evaluations.ListEvaluations(request)
        found += page.evaluations
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def board(registry: Registry, size: int = 0, **more: Any) -> list[tuple[str, float]]:
    """
    A leaderboard of `default`, all pages of it.
    """
    found = []
    request = pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="imagenet", metric="top1", page_size=size, **more)
    while True:
        page = await registry.evaluations.QueryLeaderboard(request)
        found += [(entry.model.rpartition("/")[2], entry.evaluation.value) for entry in page.entries]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def test_record_then_list(registry: Registry) -> None:
    """
    Results come back as they were recorded, by data set, metric and time of recording.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    await add_version(registry, "m")
    when = Timestamp(seconds=1_600_000_000, nanos=5000)
    sent = [
        result("m", 2, "b", "top1", 1.5, parameters={"img_size": "448"}, evaluate_time=when),
        result("m", 1, "b", "top1", 1e308),
        result("m", 1, "a", "top5", -0.25),
        result("m", 1, "a", "top1", 5),
    ]
    answer = await record(registry, *sent)
    assert (answer.recorded_count, answer.revision) == (4, 7)
    found = await listed(registry, "m")
    assert [(each.dataset, each.metric, each.value) for each in found] == [
        ("a", "top1", 5),
        ("a", "top5", -0.25),
        ("b", "top1", 1.5),
        ("b", "top1", 1e308),
    ]
    assert found[2].evaluate_time == when
    assert found[2].parameters == {"img_size": "448"}
    assert found[3].evaluate_time == found[3].create_time
    assert found[2].name.startswith(f"{DEFAULT}/models/m/versions/2/evaluations/")
    assert {each.revision for each in found} == {7}


async def test_list_filters(registry: Registry) -> None:
    """
    Results are found by version, data set, metric and bounds of the value.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    await add_version(registry, "m")
    await record(registry, *(result("m", 1 + n % 2, f"d{n % 3}", "top1", n) for n in range(12)))
    assert [each.value for each in await listed(registry, "m/versions/2", dataset="d1")] == [1, 7]
    assert [each.value for each in await listed(registry, "m", min_value=10)] == [10, 11]
    assert [each.value for each in await listed(registry, "m", max_value=0)] == [0]
    assert await listed(registry, "m", metric="top5") == []
    with Failing() as failed:
        await listed(registry, "m/versions/3")
    assert failed.reason == "VERSION_NOT_FOUND"
    with Failing() as failed:
        await listed(registry, "x")
    assert failed.reason == "MODEL_NOT_FOUND"


async def test_all_or_none(registry: Registry) -> None:
    """
    When one version does not exist, nothing is recorded, and the first one is named.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    with Failing() as failed:
        await record(registry, result("m", 1, "a", "b", 1), result("m", 2, "a", "b", 1), result("x", 1, "a", "b", 1))
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    assert failed.metadata["resource"] == f"{DEFAULT}/models/m/versions/2"
    assert await sql(registry, "SELECT count(*) FROM evaluations") == 0


async def test_ten_thousand_in_one_write(registry: Registry) -> None:
    """
    Ten thousand results are one write with one revision, and one change for each version.
    """
    await import_items(registry, [Item(model_id=f"m{n}", versions=[versions_pb2.Version()] * 5) for n in range(20)])
    answer = await record(
        registry, *(result(f"m{n % 20}", 1 + n % 5, "imagenet", f"metric{n % 7}", n / 7) for n in range(10_000))
    )
    assert answer.recorded_count == 10_000
    assert await sql(registry, "SELECT count(*) FROM evaluations WHERE revision = $1", answer.revision) == 10_000
    (told,) = await revisions(registry, answer.revision, answer.revision)
    assert len({change.resource for change in told.changes}) == len(told.changes) == 20
    with Failing() as failed:
        await record(registry, *([result("m1", 1, "a", "b", 1)] * 10_001))
    assert list(failed.fields) == ["evaluations"]


async def test_leaderboard(registry: Registry) -> None:
    """
    Each model stands once, with its best result; the best model first, or the last one when ascending.
    """
    items = [
        Item(
            model_id=f"m{n:02}",
            model=models_pb2.Model(parameter_count=n, labels={"odd": str(n % 2)}),
            versions=[versions_pb2.Version()],
            evaluations=[
                pb.Evaluation(version="1", dataset="imagenet", metric="top1", value=value)
                for value in (n // 2, n // 2 - 0.5, n // 2)
            ],
        )
        for n in range(20)
    ]
    await import_items(registry, items)
    best = await board(registry)
    assert len(best) == 20
    assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)
    assert dict(best) == {f"m{n:02}": n // 2 for n in range(20)}
    assert await board(registry, 3) == best
    worst = await board(registry, 3, ascending=True)
    assert dict(worst) == {f"m{n:02}": n // 2 - 0.5 for n in range(20)}
    assert [value for _, value in worst] == sorted(value for _, value in worst)
    small = await board(registry, 2, filter="parameter_count < 10 AND labels.odd:1")
    assert [name for name, _ in small] == ["m09", "m07", "m05", "m03", "m01"]


async def test_leaderboard_leaves_deleted_models_out(registry: Registry) -> None:
    """
    A deleted model has no place.
    """
    evaluation = pb.Evaluation(version="1", dataset="imagenet", metric="top1", value=1)
    items = [Item(model_id=name, versions=[versions_pb2.Version()], evaluations=[evaluation]) for name in "ab"]
    await import_items(registry, items)
    await sql(registry, "UPDATE models SET delete_time = now() WHERE model_id = 'a' RETURNING 1")
    assert await board(registry) == [("b", 1)]


@pytest.mark.parametrize(
    ("field", "evaluation"),
    [
        ("evaluations[0].version", pb.Evaluation(dataset="a", metric="b")),
        ("evaluations[0].version", result("m", 0, "a", "b", 1)),
        ("evaluations[0].version", pb.Evaluation(version="namespaces/x/models/m/versions/1", dataset="a", metric="b")),
        ("evaluations[0].dataset", result("m", 1, "A ", "b", 1)),
        ("evaluations[0].metric", result("m", 1, "a", "", 1)),
        ("evaluations[0].value", result("m", 1, "a", "b", math.nan)),
        ("evaluations[0].value", result("m", 1, "a", "b", -math.inf)),
        ('evaluations[0].parameters["A"]', result("m", 1, "a", "b", 1, parameters={"A": "x"})),
        ('evaluations[0].parameters["a"]', result("m", 1, "a", "b", 1, parameters={"a": "\0"})),
        ("evaluations[0].evaluate_time", result("m", 1, "a", "b", 1, evaluate_time=Timestamp(seconds=2**62))),
        ("evaluations[0].evaluate_time", result("m", 1, "a", "b", 1, evaluate_time=Timestamp(nanos=-1))),
    ],
)
async def test_bad_results(shared: Registry, field: str, evaluation: pb.Evaluation) -> None:
    """
    A malformed result is rejected, and the field is named.
    """
    with Failing() as failed:
        await record(shared, evaluation)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == [field]


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("parent", pb.QueryLeaderboardRequest(dataset="a", metric="b")),
        ("dataset", pb.QueryLeaderboardRequest(parent=DEFAULT, metric="b")),
        ("metric", pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="a", metric="b\n")),
        ("filter", pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="a", metric="b", filter="x")),
        ("page_size", pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="a", metric="b", page_size=-1)),
        ("page_token", pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="a", metric="b", page_token="x")),
    ],
)
async def test_bad_boards(shared: Registry, field: str, request_: pb.QueryLeaderboardRequest) -> None:
    """
    A malformed query is rejected, and the field is named.
    """
    with Failing() as failed:
        await shared.evaluations.QueryLeaderboard(request_)
    assert list(failed.fields) == [field]
