# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Models in the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from services.chassis.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from services.registry.model.calls import Missing, Read
from services.registry.model.changes import Journal
from services.registry.model.models import Model, ModelDraft, ModelUpdate, check_etag
from services.registry.model.names import ModelName, NamespaceName
from services.registry.model.pages import Listed, Page
from services.registry.store import rows
from services.registry.store.batching import Batcher
from services.registry.store.database import Database, Row
from services.registry.store.paging import MOST_OCTETS, NAMESPACE, after, listed, page_of
from services.registry.store.writing import Transaction, last

# One row for each name wanted, in their order; without a model where there is none.
_GET = f"""
SELECT revision.value AS head, {rows.MODEL}
  FROM revision
 CROSS JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (namespace, model, place)
  LEFT JOIN models ON models.namespace_id = wanted.namespace AND models.model_id = wanted.model
 ORDER BY wanted.place
"""

# Nothing but the total when it is too much for one answer.
_BATCH_GET = f"""
SELECT revision.value AS head, sums.total, {rows.MODEL}
  FROM revision
 CROSS JOIN (SELECT coalesce(sum(octets), 0) AS total FROM models
              WHERE namespace_id = $1 AND model_id = ANY($2::text[])) AS sums
  LEFT JOIN models ON models.namespace_id = $1 AND models.model_id = ANY($2::text[]) AND sums.total <= {MOST_OCTETS}
"""

_LIST = page_of(
    f"""
SELECT {rows.MODEL}, octets FROM models
 WHERE namespace_id = $1 AND model_id > coalesce($2, '') AND ($4 OR delete_time IS NULL)
 ORDER BY namespace_id, model_id LIMIT $3
""",
    parent=NAMESPACE,
)

# Locks the namespace against other writers that add models, and counts this one.
USE = """
UPDATE namespace_usage AS used SET models = used.models + $2
  FROM namespaces AS namespace
 WHERE used.namespace_id = $1 AND namespace.namespace_id = $1
RETURNING used.models AS used, namespace.max_models AS most
"""

_CREATE = last(f"""
, made AS (
    INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                        annotations, parameter_count, create_time, update_time, revision, octets, search)
    SELECT $10, $11, $12, $13, $14, $15, $16, $17, $18::jsonb, $19::jsonb, $20, now(), now(), value, $21,
           model_words($11, $12, $18::jsonb, $13)
      FROM next
    RETURNING {rows.MODEL}
)
SELECT made.revision AS written, made.* FROM made
""")

_LOCK = f"""
SELECT {rows.MODEL} FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL FOR NO KEY UPDATE
"""

_UPDATE = last(f"""
, made AS (
    UPDATE models
       SET display_name = $12, description = $13, owner = $14, task = $15, framework = $16, license = $17,
           labels = $18::jsonb, annotations = $19::jsonb, parameter_count = $20, update_time = now(),
           revision = next.value, octets = $21, search = model_words($11, $12, $18::jsonb, $13)
      FROM next
     WHERE namespace_id = $10 AND model_id = $11
    RETURNING {rows.MODEL}
)
SELECT made.revision AS written, made.* FROM made
""")


class ModelStore:
    """
    Reads and writes models.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gets = Batcher(self._get)

    async def get(self, name: ModelName) -> Read[Model]:
        """
        Calls that come together are read together.

        Raises:
            Missing: there is no such model.
        """
        row = await self._gets.get(name)
        if row["model_id"] is None:
            raise Missing("MODEL_NOT_FOUND", name, row["head"])
        return Read(rows.to_model(row), row["head"])

    async def _get(self, names: Sequence[ModelName]) -> Sequence[Row]:
        namespaces, models = [name.namespace for name in names], [name.model for name in names]
        return await self._database.fetch(_GET, namespaces, models)

    async def batch_get(self, parent: NamespaceName, names: Sequence[ModelName]) -> Read[list[Model]]:
        """
        The models in the order of *names*, all of one revision.

        Raises:
            Missing: one of them does not exist; the first one is named.
            InvalidArgument: together they do not fit into one answer.
        """
        ids = list({name.model for name in names})
        found = await self._database.fetch(_BATCH_GET, parent.namespace, ids)
        if (total := found[0]["total"]) > MOST_OCTETS:
            raise InvalidArgument.of("names", f"these models have {total:,} bytes: ask for fewer of them at a time")
        head = found[0]["head"]
        models = {row["model_id"]: row for row in found}
        for name in names:
            if name.model not in models:
                raise Missing("MODEL_NOT_FOUND", name, head)
        return Read([rows.to_model(models[name.model]) for name in names], head)

    async def list_page(self, parent: NamespaceName, page: Page, *, deleted: bool) -> Listed[Model]:
        """
        A page of the models of a namespace, by name.

        Raises:
            Missing: there is no such namespace.
        """
        found = await self._database.fetch(_LIST, parent.namespace, *after(page, 1), deleted)
        missing = ("NAMESPACE_NOT_FOUND", parent)
        return listed(page, found, missing, rows.to_model, lambda row: [row["model_id"]])

    async def create(self, transaction: Transaction, name: ModelName, draft: ModelDraft) -> Model:
        """
        Raises:
            Missing: there is no such namespace.
            AlreadyExists: there is such a model.
            ResourceExhausted: the namespace may not hold more models.
        """
        await use(transaction, name.parent, 1)
        journal = Journal.created(name, draft.image(), subtree=True)
        try:
            written = await transaction.last(_CREATE, journal, *model_columns(name, draft))
        except asyncpg.UniqueViolationError:
            raise AlreadyExists("MODEL_EXISTS", str(name)) from None
        return rows.to_model(written[0])

    async def update(self, transaction: Transaction, update: ModelUpdate) -> Model:
        """
        Raises:
            Missing: there is no such model.
            Aborted: the model has changed since the client read it.
        """
        name = update.name
        row = await transaction.row(_LOCK, name.namespace, name.model)
        if row is None:
            raise Missing("MODEL_NOT_FOUND", name)
        before = rows.to_model(row)
        check_etag(name, update.etag, before.revision)
        after_ = before.draft.updated(update.draft, update.paths)
        journal = Journal.updated(name, before.draft.image(), after_.image())
        return rows.to_model((await transaction.last(_UPDATE, journal, *model_columns(name, after_)))[0])


async def use(transaction: Transaction, parent: NamespaceName, count: int) -> None:
    """
    Count *count* more models in a namespace and lock it against others who add some.

    Raises:
        Missing: there is no such namespace.
        ResourceExhausted: it may not hold so many.
    """
    row = await transaction.row(USE, parent.namespace, count)
    if row is None:
        raise Missing("NAMESPACE_NOT_FOUND", parent)
    if row["most"] and row["used"] > row["most"]:
        raise ResourceExhausted(
            "MODEL_QUOTA",
            f"{parent} may hold {row['most']:,} models: purge some or raise its quota",
            metadata={"resource": str(parent), "limit": str(row["most"])},
        )


def model_columns(name: ModelName, draft: ModelDraft) -> list[Any]:
    """
    A model's columns as parameters, from its namespace to its octets.
    """
    texts = (draft.display_name, draft.description, draft.owner, draft.task, draft.framework, draft.license)
    octets = rows.octets_of(name.namespace, name.model, *texts, draft.labels, draft.annotations)
    labels, annotations = rows.packed(draft.labels), rows.packed(draft.annotations)
    return [name.namespace, name.model, *texts, labels, annotations, draft.parameter_count, octets]
