"""
Data sets, metrics and their directions; corrections; and `best`, which all of them stand on. Over a real channel.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf import json_format

from embedded.postgres import owner
from modelyard.registry.v1 import audit_pb2, evaluations_pb2, models_pb2, namespaces_pb2, versions_pb2
from modelyard.registry.v1 import evaluations_pb2 as pb
from services.ledger.store.statements import Statement
from services.ledger.tests.statements import observed
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    record,
    result,
    revisions,
    sql,
)
from services.registry.tests.server import Failing, Registry

Selection = pb.DeleteEvaluationsRequest.Selection
HIGHER, LOWER = pb.Metric.DIRECTION_HIGHER, pb.Metric.DIRECTION_LOWER
PEOPLE_WRITE = [
    ("GLUE/SST-2", "acc@1"),
    ("wikitext/103", "val/loss"),
    ("coco", "mAP@0.5"),
    ("stanfordnlp/sst2", "f1.macro"),
    ("Common Voice 11.0", "F1"),
    ("日本語 評価", 'WER "strict"'),
]


async def board(registry: Registry, dataset: str, metric: str, **more: Any) -> list[tuple[str, float]]:
    """
    A leaderboard of `default`, all pages of it.
    """
    found = []
    request = pb.QueryLeaderboardRequest(parent=DEFAULT, dataset=dataset, metric=metric, page_size=2, **more)
    while True:
        page = await registry.evaluations.QueryLeaderboard(request)
        found += [(entry.model.rpartition("/")[2], entry.evaluation.value) for entry in page.entries]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def listed(registry: Registry, model: str, **more: Any) -> list[pb.Evaluation]:
    """
    The results of a model.
    """
    request = pb.ListEvaluationsRequest(parent=f"{DEFAULT}/models/{model}", page_size=1000, **more)
    return list((await registry.evaluations.ListEvaluations(request)).evaluations)


async def direct(registry: Registry, metric: str, direction: pb.Metric.Direction.ValueType) -> pb.Metric:
    """
    Say which way a metric is better.
    """
    said = pb.Metric(metric=metric, direction=direction)
    return await registry.evaluations.UpdateMetric(pb.UpdateMetricRequest(parent=DEFAULT, metric=said))


async def delete(registry: Registry, *names: str, **selection: str) -> pb.DeleteEvaluationsResponse:
    """
    Delete results by name, or by a selection.
    """
    chosen = pb.DeleteEvaluationsRequest.Selection(**selection) if selection else None
    request = pb.DeleteEvaluationsRequest(parent=DEFAULT, names=names, selection=chosen)
    return await registry.evaluations.DeleteEvaluations(request)


async def replace(registry: Registry, *results: pb.Evaluation) -> pb.RecordEvaluationsResponse:
    """
    Record results in place of others.
    """
    request = pb.RecordEvaluationsRequest(parent=DEFAULT, evaluations=results, replace=True)
    return await registry.evaluations.RecordEvaluations(request)


async def datasets(registry: Registry, **more: Any) -> list[tuple[str, int, int]]:
    """
    The data sets with the counts of their metrics and results, a page of two at a time.
    """
    found = []
    request = pb.ListDatasetsRequest(parent=DEFAULT, page_size=2, **more)
    while True:
        page = await registry.evaluations.ListDatasets(request)
        found += [(each.dataset, each.metric_count, each.result_count) for each in page.datasets]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def metrics(registry: Registry, **more: Any) -> list[tuple[str, int, int, int]]:
    """
    The metrics with direction and the counts of their data sets and results, a page of two at a time.
    """
    found: list[tuple[str, int, int, int]] = []
    request = pb.ListMetricsRequest(parent=DEFAULT, page_size=2, **more)
    while True:
        page = await registry.evaluations.ListMetrics(request)
        found += [(each.metric, each.direction, each.dataset_count, each.result_count) for each in page.metrics]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def models(registry: Registry, names: Iterable[str], versions: int = 1) -> None:
    """
    Models with versions.
    """
    for name in names:
        await create(registry, name)
        for _ in range(versions):
            await add_version(registry, name)


@pytest.mark.parametrize(("dataset", "metric"), PEOPLE_WRITE)
async def test_ids_as_people_write_them(new_registry: Registry, dataset: str, metric: str) -> None:
    """
    Ids with slashes, signs, capitals and spaces are recorded, listed and ranked as they were written.
    """
    name = f"m{PEOPLE_WRITE.index((dataset, metric))}"
    await models(new_registry, [name])
    await record(new_registry, result(name, 1, dataset, metric, 0.5))
    (found,) = await listed(new_registry, name, dataset=dataset, metric=metric)
    assert (found.dataset, found.metric) == (dataset, metric)
    assert await board(new_registry, dataset, metric) == [(name, 0.5)]
    assert (dataset, 1, 1) in await datasets(new_registry)
    assert (metric, 0, 1, 1) in await metrics(new_registry)


async def test_case_is_kept_and_compared(registry: Registry) -> None:
    """
    F1 and f1 are two metrics.
    """
    await models(registry, "m")
    await record(registry, result("m", 1, "d", "F1", 1), result("m", 1, "d", "f1", 2))
    assert await board(registry, "d", "F1") == [("m", 1)]
    assert await board(registry, "d", "f1") == [("m", 2)]


async def test_one_form_of_unicode(registry: Registry) -> None:
    """
    A letter with a combining accent is the accented letter, wherever an id is said.
    """
    await models(registry, "m")
    await record(registry, result("m", 1, "cafe\u0301", "pre\u0301cision", 1))
    assert (await listed(registry, "m"))[0].dataset == "caf\u00e9"
    for accent in ("\u00e9", "e\u0301"):
        assert await board(registry, f"caf{accent}", f"pr{accent}cision") == [("m", 1)]
        assert len(await listed(registry, "m", metric=f"pr{accent}cision")) == 1
    await direct(registry, "pre\u0301cision", LOWER)
    assert await metrics(registry, dataset="cafe\u0301") == [("pr\u00e9cision", LOWER, 1, 1)]


@pytest.mark.parametrize("bad", ["", " a", "a ", "a\nb", "a\tb", "a\0", "a\u200bb", "a\u00a0b", "\u202ea", "a" * 251])
async def test_what_is_no_id(shared: Registry, bad: str) -> None:
    """
    An id that is empty, too long, or looks like another one is rejected; the field is named.
    """
    calls = [
        (record(shared, result("m", 1, bad, "b", 1)), "evaluations[0].dataset"),
        (record(shared, result("m", 1, "a", bad, 1)), "evaluations[0].metric"),
        (board(shared, bad, "b"), "dataset"),
        (board(shared, "a", bad), "metric"),
        (direct(shared, bad, LOWER), "metric.metric"),
    ]
    for call, field in calls:
        with Failing() as failed:
            await call
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(failed.fields) == [field]


async def test_longest_ids(registry: Registry) -> None:
    """
    250 characters of four bytes each, for both, fit every index.
    """
    await models(registry, "m")
    dataset, metric = "\U00020000" * 250, "\U00020001" * 250
    await record(registry, result("m", 1, dataset, metric, 1))
    assert await board(registry, dataset, metric) == [("m", 1)]
    assert (await datasets(registry))[0][0] == dataset


async def test_delete_by_name(registry: Registry) -> None:
    """
    A deleted result disappears from lists and leaderboards; the next best one takes its place.
    """
    await models(registry, "m")
    await record(registry, result("m", 1, "d", "top1", 99.9), result("m", 1, "d", "top1", 71.2))
    wrong = next(each.name for each in await listed(registry, "m") if each.value == 99.9)
    answer = await delete(registry, wrong)
    assert answer.deleted_count == 1
    assert [each.value for each in await listed(registry, "m")] == [71.2]
    assert await board(registry, "d", "top1") == [("m", 71.2)]
    (told,) = await revisions(registry, answer.revision, answer.revision)
    assert [change.resource for change in told.changes] == [f"{DEFAULT}/models/m/versions/1/evaluations"]
    entries = await registry.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(action="DeleteEvaluations"))
    (entry,) = entries.entries
    assert json_format.MessageToDict(entry.before)["evaluations"][0][2] == 99.9
    with Failing() as failed:
        await delete(registry, wrong)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "EVALUATION_NOT_FOUND")


async def test_delete_all_or_none(registry: Registry) -> None:
    """
    When one result does not exist, nothing is deleted, and the first one is named; another version's id is none.
    """
    await models(registry, "m", versions=2)
    await record(registry, result("m", 1, "d", "a", 1), result("m", 2, "d", "a", 2))
    first, second = (each.name for each in await listed(registry, "m"))
    strange = first.replace("/versions/1/", "/versions/2/")
    with Failing() as failed:
        await delete(registry, second, strange)
    assert failed.reason == "EVALUATION_NOT_FOUND"
    assert failed.metadata["resource"] == strange
    assert len(await listed(registry, "m")) == 2


async def test_delete_by_selection(registry: Registry) -> None:
    """
    A selection means the results of a version, of a data set and a metric when it says so; none is no error.
    """
    await models(registry, "m", versions=2)
    await record(
        registry, *(result("m", v, d, m, 1) for v in (1, 2) for d in ("x/1", "y") for m in ("a", "b") for _ in "12")
    )
    version = f"{DEFAULT}/models/m/versions/1"
    for selection, count, left in (
        ({"dataset": "x/1", "metric": "a"}, 2, 14),
        ({"dataset": "x/1", "metric": "a"}, 0, 14),
        ({"metric": "b"}, 4, 10),
        ({}, 2, 8),
    ):
        answer = await delete(registry, version=version, **selection)
        assert answer.deleted_count == count
        assert len(await listed(registry, "m")) == left
    with Failing() as failed:
        await delete(registry, version=f"{DEFAULT}/models/m/versions/3")
    assert failed.reason == "VERSION_NOT_FOUND"


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("names", pb.DeleteEvaluationsRequest(parent=DEFAULT)),
        ("names[0]", pb.DeleteEvaluationsRequest(parent=DEFAULT, names=["x"])),
        (
            "names[0]",
            pb.DeleteEvaluationsRequest(parent=DEFAULT, names=[f"{DEFAULT}/models/m/versions/1/evaluations/0"]),
        ),
        (
            "names[0]",
            pb.DeleteEvaluationsRequest(parent=DEFAULT, names=["namespaces/x/models/m/versions/1/evaluations/1"]),
        ),
        ("selection.version", pb.DeleteEvaluationsRequest(parent=DEFAULT, selection=Selection())),
        (
            "selection",
            pb.DeleteEvaluationsRequest(
                parent=DEFAULT,
                names=[f"{DEFAULT}/models/m/versions/1/evaluations/1"],
                selection=Selection(version=f"{DEFAULT}/models/m/versions/1"),
            ),
        ),
    ],
)
async def test_bad_deletions(shared: Registry, field: str, request_: pb.DeleteEvaluationsRequest) -> None:
    """
    A malformed deletion is rejected, and the field is named.
    """
    with Failing() as failed:
        await shared.evaluations.DeleteEvaluations(request_)
    assert list(failed.fields) == [field]


async def test_replace(registry: Registry) -> None:
    """
    A result replaces those of the same version that were measured in the same way, and no others.
    """
    await models(registry, "m", versions=2)
    small, large = {"img_size": "224"}, {"img_size": "448"}
    await record(
        registry,
        result("m", 1, "d", "a", 99.9, parameters=small),
        result("m", 1, "d", "a", 98, parameters=small),
        result("m", 1, "d", "a", 90, parameters=large),
        result("m", 2, "d", "a", 80, parameters=small),
        result("m", 1, "e", "a", 70, parameters=small),
    )
    answer = await replace(registry, result("m", 1, "d", "a", 71.2, parameters=small))
    assert (answer.recorded_count, answer.replaced_count) == (1, 2)
    assert sorted(each.value for each in await listed(registry, "m")) == [70, 71.2, 80, 90]
    assert await board(registry, "d", "a") == [("m", 90)]
    (told,) = await revisions(registry, answer.revision, answer.revision)
    assert len(told.changes) == 1
    answer = await replace(registry, result("m", 1, "d", "a", 1, parameters=large))
    assert answer.replaced_count == 1
    assert await board(registry, "d", "a") == [("m", 80)]


async def test_direction_of_a_leaderboard(registry: Registry) -> None:
    """
    The lowest value stands first, each model with its lowest, once somebody says that lower is better; the answer says
    what it went by, and a request may say otherwise.
    """
    await models(registry, "abc")
    await record(registry, *(result(m, 1, "d", "val/loss", v) for n, m in enumerate("abc") for v in (n, n + 0.5)))
    highest = [("c", 2.5), ("b", 1.5), ("a", 0.5)]
    lowest = [("a", 0), ("b", 1), ("c", 2)]
    assert await board(registry, "d", "val/loss") == highest
    said = await direct(registry, "val/loss", LOWER)
    assert (said.direction, said.dataset_count, said.result_count) == (LOWER, 1, 6)
    assert await board(registry, "d", "val/loss") == lowest
    request = pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="d", metric="val/loss")
    assert (await registry.evaluations.QueryLeaderboard(request)).direction == LOWER
    assert await board(registry, "d", "val/loss", direction=HIGHER) == highest
    assert await board(registry, "d", "val/loss", ascending=True) == lowest
    await direct(registry, "val/loss", pb.Metric.DIRECTION_UNSPECIFIED)
    assert await board(registry, "d", "val/loss") == highest


async def test_direction_of_a_condition(registry: Registry) -> None:
    """
    A condition on a result looks at the model's best one, whichever way is better.
    """
    await models(registry, "m", versions=2)
    await record(registry, result("m", 1, "s", "loss", 0.5), result("m", 2, "s", "loss", 0.3))

    async def found(condition: str) -> int:
        request = models_pb2.SearchModelsRequest(parent=DEFAULT, filter=condition)
        return len((await registry.models.SearchModels(request)).models)

    assert await found("evaluations.s.loss < 0.35") == 0
    await direct(registry, "loss", LOWER)
    assert await found("evaluations.s.loss < 0.35") == 1
    assert await found("evaluations.s.loss > 0.35") == 0
    assert await found("NOT (evaluations.s.loss > 0.35)") == 1
    assert await found("evaluations.s.loss:*") == 1
    assert await found("evaluations.s.loss != 0.3") == 0
    assert await board(registry, "s", "loss", filter="evaluations.s.loss < 0.35") == [("m", 0.3)]


async def test_direction_changes_between_pages(registry: Registry) -> None:
    """
    The page token of a leaderboard whose direction has changed meanwhile is rejected: its page would have another
    order.
    """
    await models(registry, "abc")
    await record(registry, *(result(m, 1, "d", "loss", n) for n, m in enumerate("abc")))
    request = pb.QueryLeaderboardRequest(parent=DEFAULT, dataset="d", metric="loss", page_size=1)
    request.page_token = (await registry.evaluations.QueryLeaderboard(request)).next_page_token
    await direct(registry, "loss", LOWER)
    with Failing() as failed:
        await registry.evaluations.QueryLeaderboard(request)
    assert list(failed.fields) == ["page_token"]


async def test_update_metric_is_told(registry: Registry) -> None:
    """
    A direction is streamed as a change of the metrics, and audited with its previous value.
    """
    await direct(registry, "loss", LOWER)
    said = await direct(registry, "loss", HIGHER)
    (told,) = await revisions(registry, said.revision, said.revision)
    assert [change.resource for change in told.changes] == [f"{DEFAULT}/metrics"]
    entries = (
        await registry.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(action="UpdateMetric", page_size=1))
    ).entries
    assert dict(entries[0].before) == {"metric": "loss", "direction": "LOWER"}
    assert dict(entries[0].after) == {"metric": "loss", "direction": "HIGHER"}
    assert await metrics(registry) == [("loss", HIGHER, 0, 0)]
    with Failing() as failed:
        await registry.evaluations.UpdateMetric(
            pb.UpdateMetricRequest(parent="namespaces/x", metric=pb.Metric(metric="a"))
        )
    assert failed.reason == "NAMESPACE_NOT_FOUND"


async def test_what_there_is(registry: Registry) -> None:
    """
    Data sets and metrics are listed with their counts, until their last result is deleted.
    """
    await models(registry, "mn")
    await record(
        registry,
        *(result(m, 1, d, x, 1) for m in "mn" for d, x in (("d", "a"), ("d", "b"), ("e", "a"))),
        result("m", 1, "f", "c", 1),
    )
    assert await datasets(registry) == [("d", 2, 4), ("e", 1, 2), ("f", 1, 1)]
    assert await datasets(registry, metric="b") == [("d", 1, 2)]
    assert await metrics(registry) == [("a", 0, 2, 4), ("b", 0, 1, 2), ("c", 0, 1, 1)]
    assert await metrics(registry, dataset="d") == [("a", 0, 1, 2), ("b", 0, 1, 2)]
    await delete(registry, version=f"{DEFAULT}/models/m/versions/1")
    assert await datasets(registry) == [("d", 2, 2), ("e", 1, 1)]
    assert await metrics(registry) == [("a", 0, 2, 2), ("b", 0, 1, 1)]
    for call in (
        registry.evaluations.ListDatasets(pb.ListDatasetsRequest(parent="namespaces/x")),
        registry.evaluations.ListMetrics(pb.ListMetricsRequest(parent="namespaces/x")),
    ):
        with Failing() as failed:
            await call
        assert failed.reason == "NAMESPACE_NOT_FOUND"


async def test_failed_versions_do_not_count(registry: Registry) -> None:
    """
    Results of a FAILED version have no place on leaderboards and in conditions, whether they came before or after.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    await add_version(registry, "m", ready=False)
    await record(registry, result("m", 1, "d", "a", 1), result("m", 2, "d", "a", 2), result("m", 2, "e", "a", 2))
    assert await board(registry, "d", "a") == [("m", 2)]
    name = f"{DEFAULT}/models/m/versions/2"
    await registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=name))
    assert await board(registry, "d", "a") == [("m", 1)]
    assert await board(registry, "e", "a") == []
    await record(registry, result("m", 2, "d", "a", 3), result("m", 2, "g", "a", 3))
    assert await board(registry, "d", "a") == [("m", 1)]
    assert await board(registry, "g", "a") == []
    assert len(await listed(registry, "m")) == 5
    await record(registry, result("m", 1, "g", "a", 0))
    assert await board(registry, "g", "a") == [("m", 0)]


async def test_a_purge_takes_all_of_it(registry: Registry) -> None:
    """
    The results of a purged model no longer count; those of a deleted model count again after it is undeleted.
    """
    await models(registry, "mn")
    await record(registry, result("m", 1, "d", "a", 1), result("n", 1, "d", "a", 2), result("m", 1, "e", "b", 1))
    # More than go with a model in one write.
    await record(registry, *(result("m", 1, "d", "c", n) for n in range(2000)))
    name = f"{DEFAULT}/models/m"
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name))
    assert await board(registry, "d", "a") == [("n", 2)]
    await registry.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=name))
    assert await board(registry, "d", "a") == [("n", 2), ("m", 1)]
    await registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=name))
    await registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=name))
    assert await datasets(registry) == [("d", 1, 1)]
    assert await sql(registry, "SELECT count(*) FROM best") == 1
    assert await sql(registry, WRONG) == 0


# What triggers keep, compared with what there is.
WRONG = """
WITH counted AS (
    SELECT evaluations.*, version_counts(versions.state) AS counts
      FROM evaluations JOIN versions ON versions.model = evaluations.model AND versions.number = evaluations.version
), right_best AS (
    SELECT model, namespace_id, dataset, metric, count(*) AS results,
           (array_agg(value ORDER BY value DESC, id DESC) FILTER (WHERE counts))[1] AS high,
           (array_agg(id ORDER BY value DESC, id DESC) FILTER (WHERE counts))[1] AS high_id,
           (array_agg(value ORDER BY value, id) FILTER (WHERE counts))[1] AS low,
           (array_agg(id ORDER BY value, id) FILTER (WHERE counts))[1] AS low_id
      FROM counted GROUP BY 1, 2, 3, 4
), pairs AS (
    SELECT namespace_id, dataset, metric, count(*) AS results FROM evaluations GROUP BY 1, 2, 3
), right_boards AS (
    SELECT namespace_id, dataset, metric, results, 1::bigint AS pairs FROM pairs
    UNION ALL SELECT namespace_id, dataset, '', sum(results)::bigint, count(*) FROM pairs GROUP BY 1, 2
    UNION ALL SELECT namespace_id, '', metric, sum(results)::bigint, count(*) FROM pairs GROUP BY 1, 3
)
SELECT (SELECT count(*) FROM ((TABLE best EXCEPT TABLE right_best) UNION ALL (TABLE right_best EXCEPT TABLE best)) AS b)
     + (SELECT count(*)
          FROM ((TABLE boards EXCEPT TABLE right_boards) UNION ALL (TABLE right_boards EXCEPT TABLE boards)) AS c)
"""


async def test_whatever_is_written(registry: Registry) -> None:
    """
    After any sequence of records, replacements, deletions and failures `best` and `boards` are what the results say.
    """
    chance = random.Random()  # noqa: S311 - of a test
    seed = chance.randrange(2**32)
    chance.seed(seed)
    await models(registry, "abc", versions=2)
    for model in "abc":
        await add_version(registry, model, ready=False)

    def some() -> list[evaluations_pb2.Evaluation]:
        return [
            result(
                chance.choice("abc"),
                chance.randint(1, 3),
                chance.choice("de"),
                chance.choice("xy"),
                chance.randint(0, 4),
                parameters={"p": chance.choice("12")},
            )
            for _ in range(chance.randint(1, 6))
        ]

    for step in range(40):
        model = chance.choice("abc")
        match chance.randint(0, 9):
            case 0 | 1 | 2 | 3:
                await record(registry, *some())
            case 4 | 5:
                await replace(registry, *some())
            case 6 | 7:
                if names := [each.name for each in await listed(registry, model)]:
                    await delete(registry, *chance.sample(names, chance.randint(1, min(3, len(names)))))
            case 8:
                version = f"{DEFAULT}/models/{model}/versions/{chance.randint(1, 3)}"
                await delete(registry, version=version, metric=chance.choice("xy"))
            case _:
                version = f"{DEFAULT}/models/{model}/versions/3"
                await registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=version))
        assert await sql(registry, WRONG) == 0, f"seed {seed}, step {step}"


async def test_other_namespaces(registry: Registry) -> None:
    """
    Directions and counts are a namespace's own.
    """
    await models(registry, "m")
    await record(registry, result("m", 1, "d", "loss", 1))
    await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="other"))
    said = pb.Metric(metric="loss", direction=LOWER)
    await registry.evaluations.UpdateMetric(pb.UpdateMetricRequest(parent="namespaces/other", metric=said))
    assert await metrics(registry) == [("loss", 0, 1, 1)]
    found = await registry.evaluations.ListMetrics(pb.ListMetricsRequest(parent="namespaces/other"))
    assert [(each.metric, each.direction, each.result_count) for each in found.metrics] == [("loss", LOWER, 0)]
    await registry.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(name="namespaces/other"))


async def test_a_model_with_many_results(registry: Registry) -> None:
    """
    Of a model with twenty thousand results a leaderboard reads the best one, and a page of its results as many as
    the page has.
    """
    await models(registry, ["m", "n"])
    await record(registry, result("n", 1, "d", "a", 5))
    connection = await asyncpg.connect(owner(registry.database))
    try:
        await connection.execute("""
INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time, create_time,
                         revision, octets)
SELECT 'default', id, 1, 'd', 'a', n % 1000, '{}', now(), now(), 1, 512
  FROM models, generate_series(1, 20000) AS n WHERE model_id = 'm'""")
        await connection.execute("ANALYZE")
        asked: list[tuple[str, str, tuple[Any, ...]]] = []

        def see(_connection: object, statement: Statement, args: tuple[Any, ...]) -> None:
            asked.append((statement.name, statement.sql, args))

        with observed(registry.database, see):
            assert await board(registry, "d", "a") == [("m", 999), ("n", 5)]
            first = pb.ListEvaluationsRequest(parent=f"{DEFAULT}/models/m", page_size=10)
            token = (await registry.evaluations.ListEvaluations(first)).next_page_token
            for parent in ("m", "m/versions/1"):
                for dataset, metric in (("", ""), ("d", ""), ("d", "a")):
                    request = pb.ListEvaluationsRequest(
                        parent=f"{DEFAULT}/models/{parent}", page_size=10, dataset=dataset, metric=metric
                    )
                    request.page_token = (await registry.evaluations.ListEvaluations(request)).next_page_token
                    await registry.evaluations.ListEvaluations(request)
            assert token
            await datasets(registry)
            await metrics(registry)
            last = (await listed(registry, "m"))[0].name
            await delete(registry, last)
        reads = {name for name, _, _ in asked if not re.search("revision|requests|turn", name)}
        assert {"evaluations.leaderboard", "evaluations.list_of_model", "evaluations.list_of_version"} <= reads
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for name, text, args in asked:
                if name not in reads or not text.lstrip().startswith("SELECT") or " FOR " in text:
                    continue
                plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", *args)
                assert _looked_at(json.loads(plan)[0]["Plan"]) < 3000, (mode, name, plan)
    finally:
        await connection.close()


def _looked_at(plan: dict[str, Any]) -> float:
    """
    How many rows the nodes of a plan read, those that a filter threw away included.
    """
    own: float = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max(own, *map(_looked_at, plan.get("Plans", ()))) if plan.get("Plans") else own
