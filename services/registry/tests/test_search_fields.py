"""
Filters and orders of searches: times, versions, descriptions, results with ids in quotes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from modelyard.registry.v1 import evaluations_pb2, models_pb2
from modelyard.registry.v1 import models_pb2 as pb
from services.chassis.checks import Checks
from services.registry.model.search.filter_parser import parse_filter
from services.registry.model.search.filters import Comparison, Score
from services.registry.model.search.searches import parse_order
from services.registry.tests.calls import DEFAULT, add_version, create, record, result, sql
from services.registry.tests.server import Failing, Registry, running

Model = models_pb2.Model


@pytest.fixture(scope="module")
async def stocked(new_database: Callable[[], str]) -> AsyncIterator[Registry]:
    """
    A registry with a few models, of which some have versions and results.
    """
    async with running(new_database()) as registry:
        await create(registry, "a", Model(description="Classifies images of the large ImageNet", parameter_count=3))
        await create(registry, "b", Model(display_name="Images", description="今月の売上予測", parameter_count=1))
        await create(registry, "c", Model(parameter_count=2, labels={"é": "e\u0301", "Team": "x"}))
        labels = {"any, (key)": "100%=x", "other": "100"}
        await create(registry, "d", Model(description="Detects images", parameter_count=2, labels=labels))
        for model, count in (("a", 3), ("b", 1), ("d", 1)):
            for _ in range(count):
                await add_version(registry, model)
        await record(
            registry,
            result("a", 1, "imagenet", "top1", 80),
            result("a", 2, "imagenet", "top1", 90),
            result("a", 3, "imagenet", "top1", 70),
            result("b", 1, "imagenet", "top1", 85),
            result("d", 1, "imagenet", "top1", 85),
            result("d", 1, "imagenet", "top5", 99),
        )
        for day, model in enumerate(("d", "c", "b", "a"), start=1):
            update = "UPDATE models SET update_time = $1::text::timestamptz WHERE model_id = $2 RETURNING 1"
            await sql(registry, update, f"2026-01-0{day}Z", model)
        yield registry


async def found(
    registry: Registry, filter_: str = "", order: str = "name", size: int = 0, query: str = ""
) -> list[str]:
    """
    The ids of the models that a search finds, all pages of it.
    """
    names, token = [], ""
    while True:
        request = pb.SearchModelsRequest(
            parent=DEFAULT, query=query, filter=filter_, order_by=order, page_size=size, page_token=token
        )
        page = await registry.models.SearchModels(request)
        names += [model.name.rpartition("/")[2] for model in page.models]
        token = page.next_page_token
        if not token:
            return names


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ('update_time >= "2026-01-03"', "ab"),
        ('update_time < "2026-01-03T00:00:00Z"', "cd"),
        ('update_time = "2026-01-02T01:00:00+01:00"', "c"),
        ('update_time != "2026-01-02T00:00:00Z" AND update_time:*', "abd"),
        ("latest_version = 1", "bd"),
        ("latest_version > 1", "a"),
        ("latest_version < 3", "bd"),
        ("latest_version != 1", "a"),
        ("NOT latest_version:*", "c"),
        ('like(name, "_")', "abcd"),
        ('like(name, "A")', ""),
        ('ilike(name, "A")', "a"),
        ('like(name , "%a%") OR like(display_name, "Ima%")', "ab"),
        ('NOT like(display_name, "%")', "acd"),
        ('like(labels."any, (key)", "100\\\\%%")', "d"),
        ('labels."any, (key)" = "100%=x"', "d"),
        ('labels."any, (key)=100%" = x', ""),
        ('labels."é" = "é"', "c"),
        ('labels."any, (key)":*', "d"),
        ("labels.Team:*", "c"),
        ("description:imagenet", "a"),
        ("description:IMAGES", "ad"),
        ('description:"image detection"', "d"),
        ('description:"images large"', "a"),
        ('description:"the images"', "ad"),
        ("description:imag", "ad"),
        ("description:net", ""),
        ("description:売上", "b"),
        ("description:上売", ""),
        ("description:*", "abd"),
        ("NOT description:images", "bc"),
        ("description:' | ! & :* <-> \\\\ images'", "ad"),
        ("description:''", ""),
    ],
)
async def test_filters(stocked: Registry, filter_: str, expected: str) -> None:
    """
    When a model was updated, its newest version and the words of its description can be asked for; a model without
    versions has no newest one.
    """
    assert "".join(await found(stocked, filter_)) == expected
    assert "".join(sorted(await found(stocked, filter_, order=""))) == expected


@pytest.mark.parametrize(
    ("filter_", "position"),
    [
        ("update_time > yesterday", 15),
        ('like(parameters, "1%")', 18),
        ('like(name "x")', 11),
        ("like(name, x)", 12),
        ('like(name, "x" AND', 16),
        ('like(name, "x\\\\")', 12),
        ('labels."" = x', 1),
        ('labels."a\x7f" = x', 1),
        ("update_time:2026", 13),
        ("latest_version > 1.5", 18),
        ("latest_version:1", 16),
        ("description = x", 15),
        ('evaluations."GLUE > 1', 13),
        ('evaluations."GLUE"x.top1 > 1', 1),
        ('evaluations."".top1 > 1', 1),
        ("evaluations.GLUE/SST-2.top1 > 1", 1),
        ('"evaluations".glue.top1 > 1', 1),
        ('task = x."y"', 8),
        ('task = audio."', 14),
    ],
)
async def test_filter_mistakes(stocked: Registry, filter_: str, position: int) -> None:
    """
    A filter that does not parse is rejected with the position of the error.
    """
    with Failing() as failed:
        await found(stocked, filter_)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields["filter"].startswith(f"at {position}: ")


@pytest.mark.parametrize(
    ("text", "dataset", "metric"),
    [
        ("evaluations.imagenet-real.top1", "imagenet-real", "top1"),
        ('evaluations."GLUE/SST-2"."acc@1"', "GLUE/SST-2", "acc@1"),
        ('evaluations.glue."f1 (macro), desc"', "glue", "f1 (macro), desc"),
        ('evaluations."a.b".top1', "a.b", "top1"),
        (r'evaluations."say \"x\"".top1', 'say "x"', "top1"),
        ('evaluations."E\u0301".top1', "É", "top1"),
    ],
)
def test_quoted_ids(text: str, dataset: str, metric: str) -> None:
    """
    Ids of data sets and metrics with other characters are quoted, in filters and in orders, and compare under NFC.
    """
    checks = Checks()
    condition = parse_filter(checks, "filter", f"{text} > 1")
    order = parse_order(checks, "order_by", f"{text} desc, name")
    checks.raise_if_any()
    assert isinstance(condition, Comparison)
    assert condition.field == Score(dataset, metric)
    assert (order[0].score, order[0].descending, order[1].field) == (Score(dataset, metric), True, "name")


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("evaluations.imagenet.top1 desc", "adbc"),
        ("evaluations.imagenet.top1", "bdac"),
        ("evaluations.imagenet.top1 desc, name", "abdc"),
        ("evaluations.imagenet.top1 desc, parameter_count", "abdc"),
        ("evaluations.imagenet.top1 desc, parameter_count desc", "adbc"),
        ('evaluations."imagenet"."top5"', "dabc"),
        ("evaluations.none.top1 desc", "dcba"),
    ],
)
async def test_order_by_a_result(stocked: Registry, order: str, expected: str, size: int) -> None:
    """
    By the best result of each model, the highest ones first with `desc`; models without come last, and every model
    comes once, page by page.
    """
    assert "".join(await found(stocked, order=order, size=size)) == expected


@pytest.mark.parametrize(
    ("order", "expected"), [("evaluations.imagenet.top1", "abdc"), ("evaluations.imagenet.top1 desc", "dbac")]
)
async def test_order_by_a_result_that_is_better_when_lower(stocked: Registry, order: str, expected: str) -> None:
    """
    The best result of a model is its lowest one when that is better of the metric, whichever way the order goes.
    """
    for direction in (evaluations_pb2.Metric.DIRECTION_LOWER, evaluations_pb2.Metric.DIRECTION_UNSPECIFIED):
        lower = direction == evaluations_pb2.Metric.DIRECTION_LOWER
        said = evaluations_pb2.Metric(metric="top1", direction=direction)
        await stocked.evaluations.UpdateMetric(evaluations_pb2.UpdateMetricRequest(parent=DEFAULT, metric=said))
        assert ("".join(await found(stocked, order=order)) == expected) is lower


async def test_order_by_a_result_of_what_is_searched(stocked: Registry) -> None:
    """
    Words and filters hold in such an order, too.
    """
    order = "evaluations.imagenet.top1 desc"
    assert await found(stocked, "parameter_count > 1", order, 1, "images") == ["a", "d"]
    assert await found(stocked, "", order, 1, "imeges") == ["a", "d", "b"]


@pytest.mark.parametrize(
    ("order", "position"),
    [
        ("name, evaluations.imagenet.top1", 7),
        ("evaluations.imagenet", 1),
        ("evaluations.imagenet.top1 desc, evaluations.imagenet.top1", 33),
        ("evaluations.imagenet.top1 descending", 1),
        ('evaluations."imagenet.top1', 1),
        ("labels.team", 1),
    ],
)
async def test_order_mistakes(stocked: Registry, order: str, position: int) -> None:
    """
    An order that does not parse is rejected with the position of the error.
    """
    with Failing() as failed:
        await found(stocked, order=order)
    assert failed.fields["order_by"].startswith(f"at {position}: ")
