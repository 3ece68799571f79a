# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Evaluations in the database.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.ledger.model.calls import Missing
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.registry.model import limits
from services.registry.model.evaluations import (
    MOST_DELETED,
    Evaluation,
    EvaluationDraft,
    EvaluationFilter,
    EvaluationName,
    RecordedEvaluations,
    Selection,
    too_many,
)
from services.registry.model.names import NamespaceName, VersionName
from services.registry.store import rows
from services.registry.store.parents import MODEL
from services.registry.store.search.filters import Parameters, sql_after

_MODELS = "SELECT id, model_id FROM models WHERE namespace_id = $1 AND model_id = ANY($2::text[])"
_LOCK = Statement("models.lock_many", f"{_MODELS} AND delete_time IS NULL ORDER BY model_id FOR SHARE")
# Against others who record: what is to go is read under this lock, and goes with the revision.
_HOLD = Statement("models.hold_many", f"{_MODELS} AND delete_time IS NULL ORDER BY model_id FOR NO KEY UPDATE")

_VERSIONS = Statement(
    "versions.exist",
    """
SELECT model, number FROM unnest($1::bigint[], $2::bigint[]) AS wanted (model, number)
  JOIN versions USING (model, number) WHERE versions.delete_time IS NULL
""",
)

# Counts no further than the limit.
_COUNTS = Statement(
    "evaluations.counts",
    """
SELECT (SELECT count(*) FROM (SELECT FROM evaluations WHERE evaluations.model = wanted.model AND version = number
                               LIMIT $3)) AS results
  FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS wanted (model, number, place) ORDER BY place
""",
)

_MADE = """
, made AS (
    INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time,
                             create_time, revision, octets)
    SELECT $10, model, version, dataset, metric, result.value, parameters::jsonb, coalesce(evaluate_time, next.moment),
           next.moment, next.value, octets
      FROM next, unnest($11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::float8[], $16::text[],
                        $17::timestamptz[], $18::integer[])
           WITH ORDINALITY
           AS result (model, version, dataset, metric, value, parameters, evaluate_time, octets, ordinal)
     ORDER BY ordinal
    RETURNING 1
)
"""
_COUNT = "SELECT next.value AS written, (SELECT count(*) FROM made) AS made_count FROM next"
_RECORD = last("evaluations.record", _MADE + _COUNT)
_REPLACE = last(
    "evaluations.replace",
    f"{_MADE}, removed AS (DELETE FROM evaluations WHERE id = ANY ($19::bigint[])) {_COUNT}",
)
_DELETE = last(
    "evaluations.delete",
    ", removed AS (DELETE FROM evaluations WHERE id = ANY ($10::bigint[])) SELECT next.value AS written FROM next",
)

_GOING = "evaluations.id, evaluations.model, version, dataset, metric, value"
_SAME = Statement(
    "evaluations.same",
    f"""
SELECT {_GOING}
  FROM (SELECT DISTINCT model, version, dataset, metric, parameters::jsonb
          FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
            AS result (model, version, dataset, metric, parameters)) AS again
  JOIN evaluations USING (model, version, dataset, metric, parameters)
 LIMIT {MOST_DELETED + 1}
""",
)
_NAMED = Statement("evaluations.named", f"SELECT {_GOING} FROM evaluations WHERE id = ANY ($1::bigint[])")
_SELECTED = Statement(
    "evaluations.selected",
    f"""
SELECT {_GOING} FROM evaluations
 WHERE model = $1 AND version = $2 AND ($3::text = '' OR dataset = $3) AND ($4::text = '' OR metric = $4)
 LIMIT {MOST_DELETED + 1}
""",
)

_OF_VERSION = """
SELECT models.id FROM models JOIN versions ON versions.model = models.id
 WHERE models.namespace_id = $1 AND models.model_id = $2 AND versions.number = $4
   AND versions.delete_time IS NULL
"""


@dataclass(frozen=True, slots=True)
class DeletedResult:
    """
    A result that a write deletes.
    """

    id: int
    name: VersionName
    shown: list[Any]


class EvaluationStore:
    """
    Records, lists and deletes results.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self, transaction: Transaction, parent: NamespaceName, drafts: Sequence[EvaluationDraft], *, replace: bool
    ) -> RecordedEvaluations:
        """
        Store results, all or none.

        Args:
            replace: in place of those of the same version, data set, metric and parameters.

        Raises:
            Missing: one of the versions does not exist; the first one is named.
            FailedPrecondition: too many would be replaced.
            ResourceExhausted: one of them has as many results as a version may have.
        """
        models = await _lock(transaction, _HOLD if replace else _LOCK, parent, [draft.version for draft in drafts])
        columns = result_columns([(models[draft.version.model], draft.version.number, draft) for draft in drafts])
        if not replace:
            await check_counts(transaction, models, drafts)
            row = (await transaction.last(_RECORD, journal_of(drafts), parent.namespace, *columns))[0]
            return RecordedEvaluations(row["made_count"], row["written"])
        found = await transaction.rows(_SAME, *columns[:4], columns[5])
        if len(found) > MOST_DELETED:
            raise too_many(parent)
        removed = _going(parent, models, found)
        await check_counts(transaction, models, drafts, removed)
        ids = [each.id for each in removed]
        row = (await transaction.last(_REPLACE, journal_of(drafts, removed), parent.namespace, *columns, ids))[0]
        return RecordedEvaluations(row["made_count"], row["written"], len(removed))

    async def delete_named(
        self, transaction: Transaction, parent: NamespaceName, names: Sequence[EvaluationName]
    ) -> RecordedEvaluations:
        """
        Delete results, all or none.

        Raises:
            Missing: one of them does not exist; the first one is named.
        """
        wanted = sorted({name.version.model for name in names})
        models = {row["model_id"]: row["id"] for row in await transaction.rows(_HOLD, parent.namespace, wanted)}
        found = _going(parent, models, await transaction.rows(_NAMED, sorted({name.id for name in names})))
        there = {(each.name, each.id) for each in found}
        for name in names:
            if (name.version, name.id) not in there:
                raise Missing("EVALUATION_NOT_FOUND", name)
        return await _delete(transaction, found)

    async def delete_selected(self, transaction: Transaction, selection: Selection) -> RecordedEvaluations:
        """
        Delete the selected results of a version.

        Raises:
            Missing: there is no such version.
            FailedPrecondition: too many would be deleted.
        """
        version = selection.version
        models = await _lock(transaction, _HOLD, version.parent.parent, [version])
        key = models[version.model]
        found = await transaction.rows(_SELECTED, key, version.number, selection.dataset, selection.metric)
        if len(found) > MOST_DELETED:
            raise too_many(version)
        return await _delete(transaction, _going(version.parent.parent, models, found))

    async def list_page(self, wanted: EvaluationFilter, page: Page) -> Listed[Evaluation]:
        """
        A page of the results of a model or a version, by data set, metric and time of recording.

        Raises:
            Missing: there is no such model or version.
        """
        parent = wanted.parent
        model = parent.parent if isinstance(parent, VersionName) else parent
        parameters = Parameters(model.namespace, model.model, page.size + 1)
        statement = _listing(wanted, page, parameters)
        found = await self._database.fetch(statement, *parameters.values)
        missing = ("VERSION_NOT_FOUND" if isinstance(parent, VersionName) else "MODEL_NOT_FOUND", parent)
        return listed(
            page,
            found,
            missing,
            lambda row: rows.to_evaluation(row, model),
            lambda row: [row["dataset"], row["metric"], row["id"]],
        )


def _listing(wanted: EvaluationFilter, page: Page, parameters: Parameters) -> Statement:
    """
    Only the conditions that are asked for, so that a page begins where the index has it, whatever plan is kept.
    """
    where = ["model = parent.id"]
    is_version = isinstance(wanted.parent, VersionName)
    if isinstance(wanted.parent, VersionName):
        where.append(f"version = {parameters.add(wanted.parent.number, 'bigint')}")
    for column, text in (("dataset", wanted.dataset), ("metric", wanted.metric)):
        if text:
            where.append(f"{column} = {parameters.add(text, 'text')}")
    for sign, bound in ((">=", wanted.least), ("<=", wanted.most)):
        if bound is not None:
            where.append(f"value {sign} {parameters.add(bound, 'float8')}")
    if page.after is not None:
        columns = [("dataset", "text", False), ("metric", "text", False), ("id", "bigint", False)]
        where.append(sql_after(columns, page.after, parameters))
    order = "model, version, dataset, metric, id" if is_version else "model, dataset, metric, id"
    found = f"SELECT {rows.EVALUATION}, octets FROM evaluations WHERE {' AND '.join(where)} ORDER BY {order} LIMIT $3"
    if is_version:
        return page_of("evaluations.list_of_version", found, _OF_VERSION)
    return page_of("evaluations.list_of_model", found, MODEL)


async def _lock(
    transaction: Transaction, lock: Statement, parent: NamespaceName, versions: Iterable[VersionName]
) -> dict[str, int]:
    """
    The ids of the models by name, locked against a purge, their versions known to exist.
    """
    names = list(dict.fromkeys(versions))
    found = await transaction.rows(lock, parent.namespace, list({name.model for name in names}))
    models: dict[str, int] = {row["model_id"]: row["id"] for row in found}
    wanted = [(models[name.model], name.number) for name in names if name.model in models]
    there = {
        tuple(row)
        for row in await transaction.rows(_VERSIONS, [model for model, _ in wanted], [number for _, number in wanted])
    }
    for name in names:
        if (models.get(name.model), name.number) not in there:
            raise Missing("VERSION_NOT_FOUND", name)
    return models


async def _delete(transaction: Transaction, removed: Sequence[DeletedResult]) -> RecordedEvaluations:
    if not removed:
        await transaction.nothing()
        return RecordedEvaluations(0, transaction.revision)
    row = (await transaction.last(_DELETE, journal_of((), removed), [each.id for each in removed]))[0]
    return RecordedEvaluations(len(removed), row["written"])


def _going(parent: NamespaceName, models: dict[str, int], found: Sequence[Row]) -> list[DeletedResult]:
    names = {key: model for model, key in models.items()}
    return [
        DeletedResult(
            row["id"],
            VersionName(parent.namespace, names[row["model"]], row["version"]),
            [row["dataset"], row["metric"], row["value"]],
        )
        for row in found
        if row["model"] in names
    ]


async def check_counts(
    transaction: Transaction,
    models: Mapping[str, int],
    drafts: Sequence[EvaluationDraft],
    removed: Sequence[DeletedResult] = (),
) -> None:
    """
    Args:
        models: the keys of their models, by id.
        removed: the evaluations that the write deletes.

    Raises:
        ResourceExhausted: a version may not have so many results.
    """
    more = Counter(draft.version for draft in drafts)
    fewer = Counter(each.name for each in removed)
    wanted = [[models[name.model] for name in more], [name.number for name in more]]
    there = await transaction.rows(_COUNTS, *wanted, limits.EVALUATIONS.most)
    for (name, count), row in zip(more.items(), there, strict=True):
        limits.EVALUATIONS.check(name, row["results"] - fewer[name] + count)


def result_columns(results: Sequence[tuple[int | str, int, EvaluationDraft]]) -> list[list[Any]]:
    """
    Results as columns, for unnest.

    Args:
        results: each with what stands for its model (its id, or the last part of its name while it is being made)
            and the number of its version.
    """
    packed = [rows.packed(draft.parameters) if draft.parameters else "{}" for _, _, draft in results]
    return [
        [model for model, _, _ in results],
        [number for _, number, _ in results],
        [draft.dataset for _, _, draft in results],
        [draft.metric for _, _, draft in results],
        [draft.value for _, _, draft in results],
        packed,
        [draft.evaluate_time for _, _, draft in results],
        [
            512 + len(draft.dataset.encode()) + len(draft.metric.encode()) + len(each.encode())
            for each, (_, _, draft) in zip(packed, results, strict=True)
        ],
    ]


def journal_of(drafts: Sequence[EvaluationDraft], removed: Sequence[DeletedResult] = ()) -> Journal:
    """
    What a write of results tells: one change for each version, not for each result, since ten thousand of them touch
    the same tags. A version's results are changed, not deleted, when some of them go.
    """
    made: defaultdict[VersionName, list[list[Any]]] = defaultdict(list)
    for draft in drafts:
        made[draft.version].append([draft.dataset, draft.metric, draft.value])
    lost: defaultdict[VersionName, list[list[Any]]] = defaultdict(list)
    for each in removed:
        lost[each.name].append(each.shown)
    changes, entries = [], []
    for version in dict.fromkeys([*made, *lost]):
        name = f"{version}/evaluations"
        changes.append(Change(name, ChangeKind.UPDATED if version in lost else ChangeKind.CREATED))
        images = [{"evaluations": each[version]} if version in each else None for each in (lost, made)]
        entries.append(Entry(name, *images))
    return Journal(changes, entries)
