# ruff: noqa: S608 - only names of columns and tables of our own go into these texts; values are parameters
"""
Deletes versions. A record stays: its number must not be given again, and the histories of aliases name it.

In the database a deleted version is FAILED and has a `delete_time`. So every statement that knows nothing of deletions,
those of the release before included, takes it for what it has become: no bytes, no part in the quota, no alias.
"""

from __future__ import annotations

from services.ledger.model.calls import check_etag
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.store.statements import Statement
from services.ledger.store.writing import Transaction, last
from services.registry.model.names import AliasName, DeploymentName
from services.registry.model.versions import (
    Version,
    VersionDeletion,
    VersionState,
    check_unused,
    no_version,
    version_deleted,
)
from services.registry.store import rows
from services.registry.store.aliases import moving
from services.registry.store.locks import lock_model
from services.registry.store.unpins import owe
from services.registry.store.usage import count

_LOCK = Statement(
    "versions.lock_to_delete",
    f"SELECT {rows.VERSION} FROM versions WHERE model = $1 AND number = $2 FOR NO KEY UPDATE",
)

_ALIASES = Statement(
    "aliases.of_version",
    "SELECT alias FROM aliases WHERE model = $1 AND version = $2 AND upper_inf(valid) ORDER BY alias",
)

_DEPLOYED = Statement(
    "deployments.live_of_version",
    """
SELECT namespace_id, deployment_id FROM deployments
 WHERE model = $1 AND version = $2 AND state IN ('PENDING', 'ROLLING_OUT', 'LIVE', 'DEGRADED')
 ORDER BY deployment_id LIMIT 1
""",
)

_RESULTS = Statement(
    "evaluations.count_of_version", "SELECT count(*) AS count FROM evaluations WHERE model = $1 AND version = $2"
)

_DELETE = last(
    "versions.delete",
    f"""
, made AS (
    UPDATE versions
       SET state = 'FAILED', failure = CASE failure WHEN '' THEN 'deleted' ELSE failure END,
           delete_time = next.moment, update_time = next.moment, revision = next.value
      FROM next
     WHERE model = $10 AND number = $11
    RETURNING {rows.VERSION}
), newest AS (
    UPDATE models
       SET newest_version = coalesce((SELECT max(number) FROM versions
                                       WHERE model = $10 AND number <> $11 AND delete_time IS NULL), 0),
           update_time = next.moment, revision = next.value
      FROM next
     WHERE id = $10 AND $16
), without AS (
    DELETE FROM evaluations WHERE model = $10 AND version = $11
)
{moving("$10", "$12", "array_fill(NULL::bigint, ARRAY[cardinality($12::text[])])")}
{count("$13", "0", "-$14::bigint")}
{owe("SELECT $15::text AS owner")}
SELECT made.revision AS written, made.* FROM made
""",
)


async def delete_version(transaction: Transaction, deletion: VersionDeletion) -> Version:
    """
    Delete a version, with its results. Its pins are taken back afterwards.

    Returns:
        What remains of it.

    Raises:
        Missing: there is no such version, or it is deleted already.
        Aborted: it has changed since the client read it.
        FailedPrecondition: it is in use, and the client does not force it.
    """
    name = deletion.name
    model = await lock_model(transaction, name.parent)
    key = model["id"]
    row = await transaction.row(_LOCK, key, name.number)
    if row is None:
        raise no_version(name)
    before = rows.to_version(row, name.parent)
    if before.state is VersionState.DELETED:
        raise version_deleted(name)
    check_etag(name, deletion.etag, before.revision)
    aliases = [each["alias"] for each in await transaction.rows(_ALIASES, key, name.number)]
    live = await transaction.row(_DEPLOYED, key, name.number)
    deployment = DeploymentName(live["namespace_id"], live["deployment_id"]) if live is not None else None
    check_unused(deletion, aliases, deployment)
    results = await transaction.row(_RESULTS, key, name.number)
    assert results is not None  # noqa: S101 - for the type checker: an aggregate has one row
    is_newest = model["newest_version"] == name.number
    journal = _journal(before, aliases, results["count"], is_newest=is_newest)
    returned = 0 if before.state is VersionState.FAILED else before.draft.size_bytes
    columns = [key, name.number, aliases, name.namespace, returned, str(name), is_newest]
    made = await transaction.last(_DELETE, journal, *columns)
    return rows.to_version(made[0], name.parent)


def _journal(before: Version, aliases: list[str], results: int, *, is_newest: bool) -> Journal:
    name = before.name
    removed = [str(AliasName(name.namespace, name.model, alias)) for alias in aliases]
    gone = {"state": before.state, **before.draft.image()}
    return Journal(
        [
            # What is below it goes, too: its results.
            Change(str(name), ChangeKind.DELETED, subtree=True),
            *(Change(alias, ChangeKind.DELETED) for alias in removed),
            # Its latest_version is another one.
            *([Change(str(name.parent), ChangeKind.UPDATED)] if is_newest else []),
        ],
        [
            Entry(str(name), gone, {"deleted": True, "evaluations": results}),
            *(Entry(alias, {"version": name.number}, None) for alias in removed),
        ],
    )
