# ruff: noqa: S608 - only numbers of parameters go into these texts; values are parameters
"""
Imports into the database: a batch is one transaction with one revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from services.chassis.errors import AlreadyExists
from services.ledger.model.calls import Missing
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.store.database_errors import Conflict
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.registry.model.imports import Batch, Imported, Item, first_state, parent_versions
from services.registry.model.names import VersionName
from services.registry.model.versions import VersionDraft
from services.registry.store import rows
from services.registry.store.evaluations import result_columns
from services.registry.store.models import model_columns
from services.registry.store.quotas import USED, check_quota, check_within_quota, count

# Results come by the ten thousand: COPY takes them in a quarter of the time that parameters need.
STAGE = Statement(
    "models.stage_import",
    """
CREATE TEMPORARY TABLE IF NOT EXISTS staged_results (
    model_id text COLLATE "C", version bigint, dataset text, metric text, value double precision, parameters text,
    evaluate_time timestamptz, octets integer, ordinal integer
) ON COMMIT DELETE ROWS
""",
)

_EXISTING = Statement(
    "models.existing", "SELECT model_id FROM models WHERE namespace_id = $1 AND model_id = ANY($2::text[])"
)

_PARENTS = Statement(
    "versions.parents",
    """
SELECT model.namespace_id, model.model_id, version.number
  FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (namespace_id, model_id, number)
  JOIN models AS model ON model.namespace_id = wanted.namespace_id AND model.model_id = wanted.model_id
  JOIN versions AS version ON version.model = model.id AND version.number = wanted.number
""",
)

_IMPORT = last(
    "models.import",
    f"""
, made AS (
    INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                        annotations, parameter_count, octets, latest_version, create_time, update_time, revision,
                        search, creator)
    SELECT namespace_id, model_id, display_name, description, owner, task, framework, license, labels::jsonb,
           annotations::jsonb, parameter_count, octets, latest_version, next.moment, next.moment, next.value,
           model_words(model_id, display_name, labels::jsonb, description), $4
      FROM next, unnest($10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
                        $17::text[], $18::text[], $19::text[], $20::bigint[], $21::integer[], $22::bigint[])
           AS item (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                    annotations, parameter_count, octets, latest_version)
    RETURNING id, namespace_id, model_id
), numbered AS (
    INSERT INTO versions (model, number, state, description, artifacts, parent_version, training_data, run, git_commit,
                          stage, labels, size_bytes, octets, annotations, source, run_link, source_model_id,
                          create_time, update_time, revision, creator, of_namespace, of_model)
    SELECT made.id, number, state, description, artifacts::jsonb, parent_version,
           ARRAY(SELECT jsonb_array_elements_text(training_data::jsonb)), run, git_commit, stage, labels::jsonb,
           size_bytes, octets, annotations::jsonb, source, run_link, source_model_id, next.moment, next.moment,
           next.value, $4, made.namespace_id, made.model_id
      FROM next, unnest($23::text[], $24::bigint[], $25::text[], $26::text[], $27::text[], $28::text[], $29::text[],
                        $30::text[], $31::text[], $32::text[], $33::text[], $34::bigint[], $35::integer[],
                        $36::text[], $37::text[], $38::text[], $39::text[])
           AS version (model_id, number, state, description, artifacts, parent_version, training_data, run, git_commit,
                       stage, labels, size_bytes, octets, annotations, source, run_link, source_model_id)
      JOIN made USING (model_id)
    RETURNING 1
), scored AS (
    INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time, octets,
                             create_time, revision)
    SELECT made.namespace_id, made.id, version, dataset, metric, result.value, parameters::jsonb,
           coalesce(evaluate_time, next.moment), octets, next.moment, next.value
      FROM next, staged_results AS result JOIN made USING (model_id)
     ORDER BY ordinal
    RETURNING 1
)
{count("$40", "$41::bigint", "$42::bigint")}
SELECT next.value AS written, (SELECT count(*) FROM made) AS models, (SELECT count(*) FROM numbered) AS versions,
       (SELECT count(*) FROM scored) AS results, {USED}
  FROM next, used
""",
)
_MODEL_WIDTH, _VERSION_WIDTH = 13, 17


class ImportStore:
    """
    Imports batches.
    """

    async def take(self, batch: Batch, transaction: Transaction) -> Imported:
        """
        Write a batch, all or none.

        Raises:
            Missing: there is no such namespace, or no version that another one was trained from.
            AlreadyExists: a model exists and the batch does not say to skip it; the first one is named.
            ResourceExhausted: the namespace may not hold so many models.
        """
        parent = batch.parent
        await check_quota(transaction, parent)
        ids = [item.name.model for item in batch.items]
        existing = {row["model_id"] for row in await transaction.rows(_EXISTING, parent.namespace, ids)}
        fresh = [item for item in batch.items if item.name.model not in existing]
        if existing and not batch.skip_existing:
            first = next(item for item in batch.items if item.name.model in existing)
            raise AlreadyExists("MODEL_EXISTS", str(first.name))
        if not fresh:
            await transaction.nothing()
            return Imported(transaction.revision, 0, len(existing), 0, 0)
        size = sum(version.size_bytes for item in fresh for version in item.versions)
        await check_quota(transaction, parent, models=len(fresh), size=size)
        await _check_parents(transaction, fresh)
        await transaction.rows(STAGE)
        await transaction.copy("models.copy_results", "staged_results", _results(fresh))
        columns = [*_columns(fresh), parent.namespace, len(fresh), size]
        try:
            row = (await transaction.last(_IMPORT, _journal(fresh), *columns))[0]
        except asyncpg.UniqueViolationError:
            # Another write created one of them after the check: the retry sees it.
            raise Conflict from None
        check_within_quota(parent, row, models=len(fresh), size=size)
        return Imported(row["written"], row["models"], len(existing), row["versions"], row["results"])


async def _check_parents(transaction: Transaction, items: Sequence[Item]) -> None:
    wanted = parent_versions(items)
    if not wanted:
        return
    columns = [[name.namespace for name in wanted], [name.model for name in wanted], [name.number for name in wanted]]
    found = {VersionName(*row) for row in await transaction.rows(_PARENTS, *columns)}
    for name in wanted:
        if name not in found:
            raise Missing("VERSION_NOT_FOUND", name)


def _journal(items: Sequence[Item]) -> Journal:
    # A new model is new with its whole subtree, which one change event expresses.
    names = [str(item.name) for item in items]
    changes = [Change(name, ChangeKind.CREATED, subtree=True) for name in names]
    return Journal(changes, [Entry(name, None, item.image()) for name, item in zip(names, items, strict=True)])


def _columns(items: Sequence[Item]) -> list[Any]:
    models = [[*model_columns(item.name, item.draft), len(item.versions)] for item in items]
    versions = [
        _version(item.name.model, number, draft)
        for item in items
        for number, draft in enumerate(item.versions, start=1)
    ]
    return [*_transposed(models, _MODEL_WIDTH), *_transposed(versions, _VERSION_WIDTH)]


def _results(items: Sequence[Item]) -> list[tuple[Any, ...]]:
    results = [(item.name.model, each.version.number, each) for item in items for each in item.results]
    return list(zip(*result_columns(results), range(len(results)), strict=True))


def _version(model: str, number: int, draft: VersionDraft) -> list[Any]:
    lineage = draft.lineage
    artifacts = rows.packed_artifacts(draft)
    return [
        model,
        number,
        first_state(draft),
        draft.description,
        artifacts,
        lineage.parent_version,
        rows.packed(lineage.training_data),
        lineage.run,
        lineage.git_commit,
        draft.stage,
        rows.packed(draft.labels),
        draft.size_bytes,
        rows.version_octets(model, draft, artifacts),
        rows.packed(draft.annotations),
        draft.source,
        draft.run_link,
        draft.source_model_id,
    ]


def _transposed(lines: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """
    Rows as columns, for unnest.
    """
    return [list(column) for column in zip(*lines, strict=True)] if lines else [[] for _ in range(width)]
