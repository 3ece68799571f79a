"""
Searches over a real channel: words, filters, orders and pages.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from modelyard.registry.v1 import evaluations_pb2, imports_pb2, models_pb2, versions_pb2
from modelyard.registry.v1 import models_pb2 as pb
from services.registry.store.search import search as search_module
from services.registry.tests.calls import DEFAULT, create, import_items, sql
from services.registry.tests.server import Failing, Registry, running

Item = imports_pb2.ImportModelsRequest.Item
Model = models_pb2.Model


def results(**values: float) -> list[evaluations_pb2.Evaluation]:
    """
    Results of version 1 on data sets with metric top1.
    """
    evaluation = evaluations_pb2.Evaluation
    return [
        evaluation(version="1", dataset=dataset.replace("_", "-"), metric="top1", value=value)
        for dataset, value in values.items()
    ]


MODELS = {
    "convnext_base.fb_in22k_ft_in1k": (
        Model(
            display_name="ConvNeXt Base",
            description="Classifying ImageNet, the large one",
            task="image-classification",
            framework="pytorch",
            license="Apache-2.0",
            labels={"team": "vision", "tier": "gold"},
            parameter_count=88_591_464,
            owner="ann",
        ),
        results(imagenet=85.8, imagenet_real=90.2),
    ),
    "convnext_tiny.in12k": (
        Model(
            description="ImageNet in small",
            task="image-classification",
            license="MIT",
            labels={"team": "edge"},
            parameter_count=28_589_128,
        ),
        results(imagenet=84.2),
    ),
    "resnet50.a1_in1k": (
        Model(
            display_name="ResNet-50",
            description="Classifies, for a baseline",
            task="image-classification",
            labels={"team": "vision"},
            parameter_count=25_557_032,
            owner="bob",
        ),
        results(imagenet=80.2, imagenet_a=11.4),
    ),
    "silero_vad": (Model(display_name="Silero VAD", description="Stimmerkennung für Geräte", task="audio"), []),
}


@pytest.fixture(autouse=True, params=["sorted", "walked"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """
    Every rule holds whether few models match, all of which are found and sorted, or many, among which the search walks.
    """
    if request.param == "walked":

        async def many(*_: object) -> tuple[float, float]:
            return math.inf, math.inf

        monkeypatch.setattr(search_module.SearchStore, "_estimates", many)
    return str(request.param)


@pytest.fixture(scope="module")
async def stocked(new_database: Callable[[], str]) -> AsyncIterator[Registry]:
    """
    A registry with a few models.
    """
    async with running(new_database()) as registry:
        version = versions_pb2.Version()
        await import_items(
            registry,
            [
                Item(model_id=name, model=model, versions=[version], evaluations=evaluations)
                for name, (model, evaluations) in MODELS.items()
            ],
        )
        yield registry


async def found(registry: Registry, query: str = "", filter_: str = "", order: str = "", size: int = 0) -> list[str]:
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


CONVNEXTS = ["convnext_base.fb_in22k_ft_in1k", "convnext_tiny.in12k"]
BASE, TINY, RESNET, SILERO = MODELS


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("convnext", {BASE, TINY}),
        ("ConvNeXt ImageNet", {BASE, TINY}),
        ("in1k", {BASE, RESNET}),
        ("convnext_base.fb_in22k_ft_in1k", {BASE}),
        ("classified", {BASE, RESNET}),
        ("classifies", {BASE, RESNET}),
        ("the convnext", {BASE, TINY}),
        ("vision", {BASE, RESNET}),
        ("team gold", {BASE}),
        ("GERÄTE", {SILERO}),
        ("convnext resnet", set()),
        ("nothing", set()),
        ("😀", set()),
        ("' | ! & :* <-> \\", {BASE, TINY, RESNET, SILERO}),
    ],
)
async def test_words(stocked: Registry, query: str, expected: set[str]) -> None:
    """
    All words have to match, in the name's parts, the display name, the labels or the description (stemmed there).
    """
    assert set(await found(stocked, query)) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("conv", {BASE, TINY}),
        ("convnex in12", {TINY}),
        ("convnxt", {BASE, TINY}),
        ("resnte50", {RESNET}),
        ("Silro", {SILERO}),
        ("convnxt imagnet", {BASE, TINY}),
        ("clasifying", {BASE, RESNET}),
        ("convnext resnte50", set()),
        ("zzzzzzzz", set()),
    ],
)
async def test_prefixes_and_typos(stocked: Registry, query: str, expected: set[str]) -> None:
    """
    The beginning of a word finds it, and so does a word with a letter too few, too many or in the wrong place.
    """
    assert set(await found(stocked, query)) == expected


async def test_tiers(database: str) -> None:
    """
    The model of that name comes first, then those whose names begin with it, by name, then those with the words in
    their name, then those with them anywhere, then those where something begins with them; among equals the newest.
    """
    async with running(database) as registry:
        models = {
            "resnetv2": Model(),
            "described": Model(description="like a resnet"),
            "labelled": Model(labels={"family": "resnet"}),
            "resnet.old": Model(),
            "resnet": Model(),
            "resnet.new": Model(),
            "other": Model(display_name="ResNet, too"),
            "longer": Model(description="of the family resnetv3"),
        }
        for name, model in models.items():
            await create(registry, name, model)
        expected = ["resnet", "resnet.new", "resnet.old", "resnetv2", "other", "labelled", "described", "longer"]
        for size in (0, 1, 2, 3):
            assert await found(registry, "resnet", size=size) == expected


async def test_a_later_model_teaches_words(registry: Registry) -> None:
    """
    What a typo is compared with are the words of all models, those that have just come included.
    """
    assert await found(registry, "efficentnet") == []
    await create(registry, "m", Model(description="An EfficientNet"))
    assert await found(registry, "efficentnet") == ["m"]


async def test_best_match_first(stocked: Registry) -> None:
    """
    A word in the name counts more than one in the description.
    """
    await create(stocked, "aaa", Model(description="Not a resnet, but it mentions a resnet"))
    try:
        assert await found(stocked, "resnet") == [RESNET, "aaa"]
    finally:
        await sql(stocked, "DELETE FROM models WHERE model_id = 'aaa' RETURNING 1")


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ('task = "image-classification"', {BASE, TINY, RESNET}),
        ("task = audio", {SILERO}),
        ("task != audio", {BASE, TINY, RESNET}),
        ("task:IMAGE", {BASE, TINY, RESNET}),
        ("display_name:*", {BASE, RESNET, SILERO}),
        ("NOT display_name:*", {TINY}),
        (f"name = {RESNET}", {RESNET}),
        (f'name = "{DEFAULT}/models/{RESNET}"', {RESNET}),
        ("name:conv", {BASE, TINY}),
        ('name < "d"', {BASE, TINY}),
        ("parameter_count < 30000000", {TINY, RESNET}),
        ("parameter_count >= 3e7", {BASE}),
        ("parameter_count:*", {BASE, TINY, RESNET}),
        ("parameter_count != 0 AND parameter_count <= 28589128", {TINY, RESNET}),
        ('create_time > "2020-01-01T00:00:00Z"', {BASE, TINY, RESNET, SILERO}),
        ('create_time < "2020-01-01"', set()),
        ("labels.team:vision", {BASE, RESNET}),
        ('labels.team = "vision" AND labels.tier = gold', {BASE}),
        ("labels.team != vision", {TINY}),
        ("NOT labels.team = vision", {TINY, SILERO}),
        ("labels.tier:*", {BASE}),
        ("labels:team", {BASE, TINY, RESNET}),
        ("NOT labels:*", {SILERO}),
        ("evaluations.imagenet.top1 > 85", {BASE}),
        ("evaluations.imagenet.top1 <= 84.2", {TINY, RESNET}),
        ("evaluations.imagenet.top1 = 80.2", {RESNET}),
        ("evaluations.imagenet.top1 != 80.2", {BASE, TINY}),
        ("NOT evaluations.imagenet.top1 > 85", {TINY, RESNET, SILERO}),
        ("evaluations.imagenet-real.top1 > 90", {BASE}),
        ("evaluations.imagenet-a.top1:*", {RESNET}),
        ("license = MIT OR license = Apache-2.0", {BASE, TINY}),
        # OR binds tighter than AND.
        ("labels.team:vision AND license = MIT OR license = Apache-2.0", {BASE}),
        ("(labels.team:vision AND license = MIT) OR license = Apache-2.0", {BASE}),
        ("NOT (labels.team:vision OR task = audio)", {TINY}),
        ("NOT NOT task = audio", {SILERO}),
        ("owner = 'ann'", {BASE}),
        ('owner = "x\' OR 1=1 --"', set()),
        (r'display_name = "ResNet\-50"', {RESNET}),
        (
            'task = "image-classification" AND parameter_count < 100000000 AND labels.team:vision '
            "AND evaluations.imagenet.top1 > 85",
            {BASE},
        ),
    ],
)
async def test_filter(stocked: Registry, filter_: str, expected: set[str]) -> None:
    """
    A filter finds the models that it describes; what a model does not have compares to nothing.
    """
    assert set(await found(stocked, filter_=filter_)) == expected


async def test_words_and_filter(stocked: Registry) -> None:
    """
    Words and a filter must both hold.
    """
    assert await found(stocked, "convnext imagenet", "evaluations.imagenet.top1 > 85") == [BASE]


@pytest.mark.parametrize(
    ("filter_", "position"),
    [
        ("task", 5),
        ("task =", 7),
        ("task = a b", 10),
        ("nope = 1", 1),
        ("task = a and owner = b", 10),
        ("(task = a", 10),
        ("task = a)", 9),
        ('task = "a', 8),
        ("= a", 1),
        ("AND", 1),
        ("task = a AND", 13),
        ("parameter_count > many", 19),
        ("parameter_count > 1.5", 19),
        ("parameter_count > 1e30", 19),
        ("parameter_count:5", 17),
        ("evaluations.imagenet.top1 > nan", 29),
        ("evaluations.imagenet > 1", 1),
        ("evaluations.imagenet.top1.x > 1", 1),
        ("labels = x", 8),
        ("create_time > yesterday", 15),
        ("task ~ a", 6),
        ("(" * 60 + "task = a" + ")" * 60, 52),
    ],
)
async def test_filter_mistakes(stocked: Registry, filter_: str, position: int) -> None:
    """
    A filter that does not parse is rejected with the position of the error.
    """
    with Failing() as failed:
        await found(stocked, filter_=filter_)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failed.fields) == ["filter"]
    assert failed.fields["filter"].startswith(f"at {position}: ")


@pytest.mark.parametrize(
    ("order", "position"), [("size", 1), ("name up", 1), ("name, name", 7), ("name,", 6), ("parameter_count  DESC", 1)]
)
async def test_order_mistakes(stocked: Registry, order: str, position: int) -> None:
    """
    An order that does not parse is rejected with the position of the error.
    """
    with Failing() as failed:
        await found(stocked, order=order)
    assert list(failed.fields) == ["order_by"]
    assert failed.fields["order_by"].startswith(f"at {position}: ")


@pytest.mark.parametrize(
    "order",
    [
        "",
        "name desc",
        "parameter_count",
        "parameter_count desc",
        "parameter_count desc, name",
        "create_time desc, parameter_count",
        "update_time, name desc",
    ],
)
@pytest.mark.parametrize("query", ["", "word"])
async def test_pages_are_exact(shared: Registry, way: str, query: str, order: str) -> None:
    """
    Page by page, every model is listed exactly once and in order, with many equal keys, whatever the order.
    """
    dice = random.Random(way + order)  # noqa: S311 - test data
    prefix = f"p{dice.randrange(10**9)}{'q' if query else 'n'}"
    items = [
        Item(
            model_id=f"{prefix}-{n}",
            model=Model(parameter_count=dice.randrange(3), description=f"word {'word ' * (n % 3)}"),
        )
        for n in range(40)
    ]
    await import_items(shared, items[:20], items[20:])
    everything = await found(shared, query, f"name:{prefix}", order, size=200)
    assert len(everything) == 40
    assert await found(shared, query, f"name:{prefix}", order, size=7) == everything
    if order.startswith("parameter_count"):
        counts = {item.model_id: item.model.parameter_count for item in items}
        keys = [counts[name] for name in everything]
        assert keys == sorted(keys, reverse="desc" in order.split(",")[0])
    if order == "name desc":
        assert everything == sorted(everything, reverse=True)


async def test_rows_that_come_and_go(registry: Registry) -> None:
    """
    A row that is inserted before the page does not repeat another, and a row that is deleted does not hide one.
    """
    await import_items(registry, [Item(model_id=f"m{n}") for n in range(6)])
    request = pb.SearchModelsRequest(parent=DEFAULT, page_size=3, order_by="name")
    page = await registry.models.SearchModels(request)
    await create(registry, "a")
    await sql(registry, "DELETE FROM models WHERE model_id = 'm0' RETURNING 1")
    request.page_token = page.next_page_token
    rest = await registry.models.SearchModels(request)
    assert [model.name.rpartition("/")[2] for model in rest.models] == ["m3", "m4", "m5"]


async def test_too_slow(database: str) -> None:
    """
    A search that exceeds its time limit fails with DEADLINE_EXCEEDED and a reason, and the pool stays usable.
    """
    async with running(database, MODELYARD_SEARCH_SECONDS="0.5") as registry:
        await create(registry, "m", Model(description="word"))
        slow = """
        CREATE OR REPLACE FUNCTION lexemes_of(content text) RETURNS text[] LANGUAGE sql
        AS 'SELECT ''{word}''::text[] FROM pg_sleep(5)'
        """
        await sql(registry, slow)
        with Failing() as failed:
            await found(registry, "word")
        assert (failed.code, failed.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "SEARCH_TOO_SLOW")
        assert await found(registry, filter_="name = m") == ["m"]
