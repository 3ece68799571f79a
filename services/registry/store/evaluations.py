# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Evaluations in the database.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from services.ledger.model.calls import Missing
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.statements import Statement
from services.ledger.store.writing import Transaction, last
from services.registry.model import bounds
from services.registry.model.evaluations import Evaluation, EvaluationDraft, EvaluationFilter, Recorded
from services.registry.model.names import NamespaceName, VersionName
from services.registry.store import rows

_LOCK = Statement(
    "models.lock_many",
    """
SELECT id, model_id FROM models
 WHERE namespace_id = $1 AND model_id = ANY($2::text[]) AND delete_time IS NULL
 ORDER BY model_id FOR SHARE
""",
)

_VERSIONS = Statement(
    "versions.exist",
    """
SELECT model, number FROM unnest($1::bigint[], $2::bigint[]) AS wanted (model, number)
  JOIN versions USING (model, number)
""",
)

# No further than there may be.
_COUNTS = Statement(
    "evaluations.counts",
    """
SELECT (SELECT count(*) FROM (SELECT FROM evaluations WHERE evaluations.model = wanted.model AND version = number
                               LIMIT $3)) AS results
  FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS wanted (model, number, place) ORDER BY place
""",
)

_RECORD = last(
    "evaluations.record",
    """
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
SELECT next.value AS written, (SELECT count(*) FROM made) AS made_count FROM next
""",
)

_OF_MODEL = "SELECT id, 0 AS number FROM models WHERE namespace_id = $1 AND model_id = $2 AND $3::bigint IS NULL"
_OF_VERSION = """
SELECT models.id, versions.number FROM models JOIN versions ON versions.model = models.id
 WHERE models.namespace_id = $1 AND models.model_id = $2 AND versions.number = $3
"""
_ROWS = f"""
SELECT {rows.EVALUATION}, octets FROM evaluations
 WHERE model = parent.id AND (parent.number = 0 OR version = parent.number)
   AND ($4::text = '' OR dataset = $4) AND ($5::text = '' OR metric = $5)
   AND ($6::float8 IS NULL OR value >= $6) AND ($7::float8 IS NULL OR value <= $7)
   AND ($8::text IS NULL OR (dataset, metric, id) > ($8, $9::text, $10::bigint))
 ORDER BY dataset, metric, id LIMIT $11
"""
_LIST_OF_MODEL = page_of("evaluations.list_of_model", _ROWS, _OF_MODEL)
_LIST_OF_VERSION = page_of("evaluations.list_of_version", _ROWS, _OF_VERSION)


class EvaluationStore:
    """
    Records and lists results.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self, transaction: Transaction, parent: NamespaceName, drafts: Sequence[EvaluationDraft]
    ) -> Recorded:
        """
        Store results, all or none.

        Raises:
            Missing: one of the versions does not exist; the first one is named.
            ResourceExhausted: one of them has as many results as a version may have.
        """
        models = await _lock(transaction, parent, drafts)
        await _check_counts(transaction, models, drafts)
        columns = result_columns([(models[draft.version.model], draft.version.number, draft) for draft in drafts])
        row = (await transaction.last(_RECORD, _journal(drafts), parent.namespace, *columns))[0]
        return Recorded(row["made_count"], row["written"])

    async def list_page(self, wanted: EvaluationFilter, page: Page) -> Listed[Evaluation]:
        """
        A page of the results of a model or a version, by data set, metric and time of recording.

        Raises:
            Missing: there is no such model or version.
        """
        parent = wanted.parent
        is_version = isinstance(parent, VersionName)
        model = parent.parent if isinstance(parent, VersionName) else parent
        found = await self._database.fetch(
            _LIST_OF_VERSION if is_version else _LIST_OF_MODEL,
            model.namespace,
            model.model,
            parent.number if isinstance(parent, VersionName) else None,
            wanted.dataset,
            wanted.metric,
            wanted.least,
            wanted.most,
            *after(page, 3),
        )
        missing = ("VERSION_NOT_FOUND" if is_version else "MODEL_NOT_FOUND", parent)
        return listed(
            page,
            found,
            missing,
            lambda row: rows.to_evaluation(row, model),
            lambda row: [row["dataset"], row["metric"], row["id"]],
        )


async def _lock(transaction: Transaction, parent: NamespaceName, drafts: Sequence[EvaluationDraft]) -> dict[str, int]:
    """
    The ids of the models by name, locked against a purge, their versions known to exist.
    """
    names = list(dict.fromkeys(draft.version for draft in drafts))
    found = await transaction.rows(_LOCK, parent.namespace, list({name.model for name in names}))
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


async def _check_counts(transaction: Transaction, models: Mapping[str, int], drafts: Sequence[EvaluationDraft]) -> None:
    more = Counter(draft.version for draft in drafts)
    wanted = [[models[name.model] for name in more], [name.number for name in more]]
    there = await transaction.rows(_COUNTS, *wanted, bounds.MOST_RESULTS)
    for (name, count), row in zip(more.items(), there, strict=True):
        bounds.check_results(name, row["results"] + count)


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
        [512 + len(each.encode()) for each in packed],
    ]


def _journal(drafts: Sequence[EvaluationDraft]) -> Journal:
    # One change for each version, not for each result: ten thousand of them touch the same tags.
    by_version: defaultdict[VersionName, list[list[Any]]] = defaultdict(list)
    for draft in drafts:
        by_version[draft.version].append([draft.dataset, draft.metric, draft.value])
    names = {version: f"{version}/evaluations" for version in by_version}
    return Journal(
        [Change(name, ChangeKind.CREATED) for name in names.values()],
        [Entry(names[version], None, {"evaluations": results}) for version, results in by_version.items()],
    )
