"""
What an import of a card takes over, over a real channel.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from modelyard.registry.v1 import audit_pb2, evaluations_pb2, models_pb2, versions_pb2
from modelyard.registry.v1 import cards_pb2 as pb
from services.registry.model.card_metadata import metadata_of
from services.registry.tests.calls import DEFAULT, add_version, create, get, record, result, revisions, sql, write_card
from services.registry.tests.server import Failing, Registry

M = f"{DEFAULT}/models/m"
CARD = """---
license: apache-2.0
pipeline_tag: text-classification
library_name: transformers
tags: [pytorch, sentiment, "license:mit", 7]
datasets:
- glue
- stanfordnlp/sst2
model-index:
- name: m
  results:
  - task: {type: text-classification, name: Text Classification}
    dataset: {type: glue, name: GLUE, config: sst2, split: validation, args: {n: 1}}
    metrics:
    - {type: accuracy, value: 0.91, verified: true, verifyToken: x}
    - {type: f1, name: F1, value: "0.905", args: {average: macro}}
    - {type: loss, value: high}
  - dataset: {name: no type}
    metrics:
    - {type: accuracy, value: 1}
  - task: {type: x}
    metrics:
    - {type: accuracy, value: 1}
---
# m
"""


async def bring(registry: Registry, content: str = CARD, **more: Any) -> pb.Card:
    """
    Import the card of `m`.
    """
    return await registry.cards.ImportCard(pb.ImportCardRequest(name=f"{M}/card", content=content, **more))


async def results(registry: Registry) -> list[evaluations_pb2.Evaluation]:
    """
    The results of `m`.
    """
    request = evaluations_pb2.ListEvaluationsRequest(parent=M)
    return list((await registry.evaluations.ListEvaluations(request)).evaluations)


@pytest.fixture
async def model(registry: Registry) -> Registry:
    """
    A registry with a model m of two versions, the newer of which has failed.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    failed = await add_version(registry, "m", ready=False)
    await registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=failed.name))
    return registry


async def test_fields_and_labels(model: Registry) -> None:
    """
    Task, framework, license, tags and data sets of a card are copied to the model, searched, streamed as changes and
    audited.
    """
    before = await get(model, "m")
    card = await bring(model)
    assert list(card.imported.fields) == [
        "task", "framework", "license", "labels.pytorch", "labels.sentiment", "labels.datasets",
    ]  # fmt: skip
    found = await get(model, "m")
    assert (found.task, found.framework, found.license) == ("text-classification", "transformers", "apache-2.0")
    assert found.labels == {"pytorch": "", "sentiment": "", "datasets": "glue, stanfordnlp/sst2"}
    assert (found.revision, found.etag != before.etag) == (card.revision, True)
    for search in ({"filter": "labels:pytorch"}, {"query": "sentiment stanfordnlp"}, {"query": "sentimnet"}):
        request = models_pb2.SearchModelsRequest(parent=DEFAULT, **search)  # type: ignore[arg-type]
        assert [each.name for each in (await model.models.SearchModels(request)).models] == [M], search
    (told,) = await revisions(model, card.revision, card.revision)
    version = f"{M}/versions/1"
    assert {change.resource for change in told.changes} == {f"{M}/card", M, f"{version}/evaluations"}
    entries = (await model.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(action="ImportCard"))).entries
    assert {entry.resource for entry in entries} == {f"{M}/card", M, f"{version}/evaluations"}


async def test_what_is_set_stays(model: Registry) -> None:
    """
    A field or a label that the model has is not touched; and when all of it is there, the model does not change.
    """
    await sql(model, "UPDATE models SET task = 'mine', labels = '{\"pytorch\": \"2\"}' RETURNING 1")
    card = await bring(model)
    found = await get(model, "m")
    assert (found.task, found.framework, found.labels["pytorch"]) == ("mine", "transformers", "2")
    assert "task" not in card.imported.fields
    again = await bring(model)
    assert (again.number, list(again.imported.fields)) == (1, [])
    assert await get(model, "m") == found


async def test_results(model: Registry) -> None:
    """
    The results of a model-index are those of the newest version that has not failed: of type/config, with how they were
    measured; what is no result is said with its place, and the rest is taken.
    """
    card = await bring(model)
    found = {each.metric: each for each in await results(model)}
    assert (card.imported.version, card.imported.recorded_count) == (f"{M}/versions/1", 3)
    assert {each.version for each in found.values()} == {f"{M}/versions/1"}
    how = {"task": "text-classification", "split": "validation", "dataset_args": '{"n": 1}'}
    f1 = found["f1"]
    assert (f1.dataset, f1.value, dict(f1.parameters)) == (
        "glue/sst2", 0.905, {**how, "metric_args": '{"average": "macro"}'},
    )  # fmt: skip
    assert sorted((each.dataset, each.metric, each.value) for each in await results(model)) == [
        ("glue/sst2", "accuracy", 0.91),
        ("glue/sst2", "f1", 0.905),
        ("no type", "accuracy", 1),
    ]
    at = "model-index[0].results"
    assert list(card.imported.warnings) == [
        'tags[2]: "license:mit" cannot be the key of a label',
        "tags[3]: is not a text",
        f"{at}[0].metrics[0].verified: is not imported, since only the Hub can check it",
        f'{at}[0].metrics[2].value: "high" is not a finite number',
        f"{at}[2].dataset: is missing, or not a mapping",
    ]
    board = evaluations_pb2.QueryLeaderboardRequest(parent=DEFAULT, dataset="glue/sst2", metric="accuracy")
    assert [each.model for each in (await model.evaluations.QueryLeaderboard(board)).entries] == [M]


async def test_the_same_card_again(model: Registry) -> None:
    """
    Results that exist are not recorded again; one with another value replaces the previous one; results that were
    measured otherwise stay.
    """
    await bring(model)
    await record(model, result("m", 1, "glue/sst2", "accuracy", 0.5))
    first = {each.name for each in await results(model)}
    again = await bring(model)
    assert (again.imported.recorded_count, again.imported.replaced_count) == (0, 0)
    assert {each.name for each in await results(model)} == first
    changed = await bring(model, CARD.replace("value: 0.91", "value: 0.93"))
    assert (changed.imported.recorded_count, changed.imported.replaced_count) == (1, 1)
    values = [each.value for each in await results(model) if each.dataset == "glue/sst2" and each.metric == "accuracy"]
    assert sorted(values) == [0.5, 0.93]


async def test_a_version_of_choice(model: Registry) -> None:
    """
    The results may be recorded for a version that is named; one that does not exist, or of another model, is rejected.
    """
    await add_version(model, "m")
    card = await bring(model, version=f"{M}/versions/1")
    assert card.imported.version == f"{M}/versions/1"
    assert (await bring(model)).imported.version == f"{M}/versions/3"
    with Failing() as failed:
        await bring(model, version=f"{M}/versions/9")
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    for bad in ("x", f"{DEFAULT}/models/n/versions/1"):
        with Failing() as failed:
            await bring(model, version=bad)
        assert list(failed.fields) == ["version"]


async def test_no_version(registry: Registry) -> None:
    """
    Without a version there is nothing that results could be of: it is said, and the card is imported.
    """
    await create(registry, "m")
    card = await bring(registry)
    assert (card.number, card.imported.recorded_count, card.imported.version) == (1, 0, "")
    assert card.imported.warnings[-1] == "model-index: the model has no version that the results could be of"
    assert await results(registry) == []


async def test_card_only(model: Registry) -> None:
    """
    With card_only, and by UpdateCard, a model and its results stay as they are.
    """
    before = await get(model, "m")
    assert not (await bring(model, card_only=True)).HasField("imported")
    await write_card(model, "m", license="mit")
    assert await get(model, "m") == before
    assert await results(model) == []


async def test_read_back(model: Registry) -> None:
    """
    What was taken over is in the answer of the import alone: the card is what it was, to the letter.
    """
    await bring(model)
    card = await model.cards.GetCard(pb.GetCardRequest(name=f"{M}/card"))
    assert not card.HasField("imported")
    assert (await model.cards.ExportCard(pb.ExportCardRequest(name=f"{M}/card"))).content == CARD


@pytest.mark.parametrize(
    "extra",
    [
        {"model-index": 1},
        {"model-index": [1]},
        {"model-index": [{"results": {}}]},
        {"model-index": [{"results": [{"dataset": {"type": "d"}, "metrics": [{"type": "m", "value": True}]}]}]},
        {"model-index": [{"results": [{"dataset": {"type": "d"}, "metrics": [{"type": "m", "value": "nan"}]}]}]},
        {"model-index": [{"results": [{"dataset": {"type": "d"}, "metrics": [{"type": "m", "value": [1]}]}]}]},
        {"model-index": [{"results": [{"dataset": {"type": "d"}, "metrics": [{"type": " ", "value": 1}]}]}]},
        {"model-index": [{"results": [{"dataset": {"type": "d" * 251}, "metrics": [{"type": "m", "value": 1}]}]}]},
        {"model-index": [{"results": [{"dataset": {"type": [1]}, "metrics": [{"type": "m", "value": 1}]}]}]},
        {"pipeline_tag": ["a", "b"]},
        {"pipeline_tag": "a" * 129},
        {"library_name": {"a": 1}},
        {"tags": {"a": 1}},
        {"tags": ["Not A Key"]},
        {"datasets": ["d" * 257]},
    ],
)
def test_what_cannot_be_taken_over(extra: dict[str, Any]) -> None:
    """
    Whatever a card says that is not as it should be is said in a warning with its place, and nothing of it is taken.
    """
    facts = metadata_of("", extra)
    (warning,) = facts.warnings
    assert warning.startswith(next(iter(extra)))
    assert facts.results == ()
    assert (facts.model.task, facts.model.framework, facts.model.labels) == ("", "", {})


def test_many_warnings() -> None:
    """
    A card can be wrong in twenty thousand places: a hundred are named, and the rest is counted.
    """
    facts = metadata_of("", {"tags": [1] * 20_000})
    assert len(facts.warnings) == 101
    assert facts.warnings[-1] == "and 19,900 more"


def test_twice() -> None:
    """
    Of a result that a card has twice the last value counts, and it is said when they differ.
    """
    metrics = [{"type": "m", "value": value} for value in (1, 1, 2)]
    facts = metadata_of("", {"model-index": [{"results": [{"dataset": {"type": "d"}, "metrics": metrics}]}]})
    assert [each.value for each in facts.results] == [2]
    assert list(facts.warnings) == ["model-index[0].results[0].metrics[2]: comes twice, and the last value counts"]


async def test_too_many_labels(model: Registry) -> None:
    """
    A model has at most 256 labels: what has no room is said.
    """
    tags = ", ".join(f"t{number}" for number in range(262))
    card = await bring(model, f"---\ntags: [{tags}]\n---\n")
    assert len((await get(model, "m")).labels) == 256
    assert len(card.imported.warnings) == 6
