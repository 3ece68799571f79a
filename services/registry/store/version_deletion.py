# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Deletes versions. A tombstone remains: the number must not be reused, and alias histories refer to it.

In the database a deleted version is FAILED and has a `delete_time`. So every statement that knows nothing of deletions,
those of the release before included, takes it for what it has become: no bytes, no part in the quota, no alias.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from services.chassis.errors import Aborted, FailedPrecondition
from services.ledger.model.calls import Missing, Write, check_etag
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.ledger.store.writer import Writer
from services.registry.model.aliases import Move
from services.registry.model.names import DeploymentName
from services.registry.model.versions import (
    Version,
    VersionDeletion,
    VersionState,
    check_unused,
    no_version,
    version_deleted,
)
from services.registry.store import rows
from services.registry.store.alias_moves import AliasWrite, Moving, check_rules
from services.registry.store.locks import lock_model
from services.registry.store.pin_releases import release_pins
from services.registry.store.quotas import count

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

# Of those before it, since it is the newest one.
_NEWEST = Statement(
    "versions.newest_before",
    """
SELECT number FROM versions WHERE model = $1 AND number < $2 AND delete_time IS NULL ORDER BY number DESC LIMIT 1
""",
)

# As many may go with the version itself, with the revision in hand, and as many in each write before.
FEW_RESULTS = 1000

_MANY = Statement(
    "evaluations.many_of_version",
    f"SELECT true FROM evaluations WHERE model = $1 AND version = $2 OFFSET {FEW_RESULTS} LIMIT 1",
)

_PART = last(
    "evaluations.delete_part",
    f"""
, removed AS (
    DELETE FROM evaluations
     WHERE id = ANY (ARRAY(SELECT id FROM evaluations WHERE model = $10 AND version = $11 LIMIT {FEW_RESULTS}))
)
SELECT next.value AS written FROM next
""",
)

_DELETE = AliasWrite(
    "versions.delete",
    f"""
, made AS (
    UPDATE versions
       SET state = 'FAILED', failure = CASE failure WHEN '' THEN 'deleted' ELSE failure END,
           delete_time = next.moment, update_time = next.moment, revision = next.value
      FROM next
     WHERE model = $10 AND number = $15
    RETURNING {rows.VERSION}
), newest AS (
    UPDATE models
       SET newest_version = coalesce($19::bigint, newest_version), activity_time = next.moment,
           update_time = CASE WHEN $19::bigint IS NULL THEN update_time ELSE next.moment END,
           revision = CASE WHEN $19::bigint IS NULL THEN revision ELSE next.value END
      FROM next
     WHERE id = $10
), without AS (
    DELETE FROM evaluations WHERE model = $10 AND version = $15
), unlisted AS (
    DELETE FROM version_digests WHERE model = $10 AND number = $15
)
{count("$16", "0", "-$17::bigint")}
{release_pins("SELECT $18::text AS owner")}
SELECT made.revision AS written, made.* FROM made
""",
)


class VersionDeletions:
    """
    Deletes versions.

    Args:
        writer: does the writes that come before.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def prepare(self, deletion: VersionDeletion, write: Write) -> None:
        """
        Delete the results of a version that may be deleted, until they are few enough to go with it: the revision is
        not to be held for as long as many take.

        Where it may not be deleted nothing is: `delete` says why, unless it was done under the same request id
        meanwhile.

        Args:
            write: who does this; each part is a write of its own.
        """
        part = replace(write, request_id="", trace=write.request_id or write.trace)
        work = partial(self._part, deletion=deletion)
        with suppress(Missing, Aborted, FailedPrecondition):
            while (await self._writer.run(part, work, lambda _: b"", [deletion.name.parent])).value:
                pass

    async def _part(self, transaction: Transaction, deletion: VersionDeletion) -> bool:
        found = await _locked(transaction, deletion)
        await check_rules(transaction, found.moving)
        many = await transaction.row(_MANY, found.key, deletion.name.number)
        if many is None:
            await transaction.nothing()
            return False
        results = f"{deletion.name}/evaluations"
        journal = Journal.of(results, ChangeKind.DELETED, {"evaluations": FEW_RESULTS}, None)
        await transaction.last(_PART, journal, found.key, deletion.name.number)
        return True

    async def delete(self, transaction: Transaction, deletion: VersionDeletion) -> Version:
        """
        Delete a version, with its results. Its pins are released afterwards.

        Returns:
            Its tombstone.

        Raises:
            Missing: there is no such version, or it is deleted already.
            Aborted: it has changed since the client read it.
            FailedPrecondition: it is in use, and the client does not force it; or rules protect an alias of it.
        """
        name = deletion.name
        found = await _locked(transaction, deletion)
        results = await transaction.row(_RESULTS, found.key, name.number)
        assert results is not None  # noqa: S101 - for the type checker: an aggregate has one row
        journal = _journal(found, results["count"])
        before = found.version
        returned = 0 if before.state is VersionState.FAILED else before.draft.size_bytes
        columns = [name.number, name.namespace, returned, str(name), found.newest]
        made = await _DELETE.run(transaction, found.moving, journal, *columns)
        return rows.to_version(made[0], name.parent)


@dataclass(frozen=True, slots=True)
class _Found:
    """
    A version that may be deleted.

    Args:
        key: of its model.
        aliases: that point at it.
        newest: the number of the newest version afterwards; None when that does not change.
    """

    key: int
    version: Version
    aliases: list[str]
    newest: int | None

    @property
    def moving(self) -> Moving:
        """
        The removal of its aliases.
        """
        name = self.version.name
        moves = [Move(alias, None) for alias in self.aliases]
        return Moving(name.parent, self.key, moves, dict.fromkeys(self.aliases, name.number))


async def _locked(transaction: Transaction, deletion: VersionDeletion) -> _Found:
    name = deletion.name
    model = await lock_model(transaction, name.parent)
    key = model["id"]
    row = await transaction.row(_LOCK, key, name.number)
    if row is None:
        raise no_version(name)
    version = rows.to_version(row, name.parent)
    if version.state is VersionState.DELETED:
        raise version_deleted(name)
    check_etag(name, deletion.etag, version.revision)
    aliases = [each["alias"] for each in await transaction.rows(_ALIASES, key, name.number)]
    live = await transaction.row(_DEPLOYED, key, name.number)
    deployment = DeploymentName(live["namespace_id"], live["deployment_id"]) if live is not None else None
    check_unused(deletion, aliases, deployment)
    newest = None
    if model["newest_version"] == name.number:
        before = await transaction.row(_NEWEST, key, name.number)
        newest = before["number"] if before is not None else 0
    return _Found(key, version, aliases, newest)


def _journal(found: _Found, results: int) -> Journal:
    name = found.version.name
    before = {"state": found.version.state, **found.version.draft.image()}
    moved = Journal([], [])
    if found.newest is not None:
        moved = Journal.updated(name.parent, {"latest_version": name.number}, {"latest_version": found.newest})
    return Journal(
        [
            # What is below it goes, too: its results.
            Change(str(name), ChangeKind.DELETED, subtree=True),
            *moved.changes,
        ],
        [
            Entry(str(name), before, {"deleted": True, "evaluations": results}),
            *moved.entries,
        ],
    )
