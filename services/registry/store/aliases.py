# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Aliases in the database (MoveAliases, RollbackAlias): a temporal table. The current target of an alias is the row
without an end time. A version's deletion removes its aliases by the same statement (version_deletion.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.chassis.errors import InvalidArgument
from services.ledger.model.calls import Missing, Read
from services.ledger.model.changes import Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction
from services.registry.model import limits
from services.registry.model.aliases import Alias, AliasPeriod, Move, check_expected, check_move, check_moved
from services.registry.model.names import AliasName, ModelName
from services.registry.model.versions import VersionState
from services.registry.store import rows
from services.registry.store.alias_moves import AliasWrite, Moving
from services.registry.store.locks import lock_model
from services.registry.store.parents import MODEL

_GET = read(
    "aliases.get",
    f"""
SELECT revision.value AS head, $4::timestamptz > clock_timestamp() AS is_future, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT aliases.version, lower(valid) AS start_time, aliases.actor, aliases.revision
               FROM models JOIN aliases ON aliases.model = models.id
              WHERE models.namespace_id = $1 AND models.model_id = $2 AND alias = $3
                AND CASE WHEN $4::timestamptz IS NULL THEN upper_inf(valid) ELSE valid @> $4::timestamptz END
            ) AS found ON true
""",
)

_LIST = page_of(
    "aliases.list",
    """
SELECT alias, version, lower(valid) AS start_time, actor, revision, 512 AS octets FROM aliases
 WHERE model = parent.id AND upper_inf(valid) AND version IS NOT NULL AND alias > coalesce($3, '')
   AND ($5::bigint IS NULL OR version = $5)
 ORDER BY alias LIMIT $4
""",
    parent=MODEL,
)

_HISTORY = page_of(
    "aliases.moves",
    """
SELECT version, lower(valid) AS start_time, upper(valid) AS end_time, actor, revision, 512 AS octets FROM aliases
 WHERE model = parent.id AND alias = parent.alias AND ($4::timestamptz IS NULL OR lower(valid) < $4)
 ORDER BY lower(valid) DESC LIMIT $5
""",
    parent="""
SELECT id, $3::text AS alias FROM models
 WHERE namespace_id = $1 AND model_id = $2 AND EXISTS (SELECT FROM aliases WHERE model = models.id AND alias = $3)
""",
)


_NOW = Statement(
    "aliases.now",
    """
SELECT alias, version, lower(valid) AS start_time, coalesce(restores, lower(valid)) AS origin, actor, revision
  FROM aliases
 WHERE model = $1 AND alias = ANY($2::text[]) AND upper_inf(valid)
""",
)

# Counts no further than the limit.
_COUNT = Statement(
    "aliases.count",
    """
SELECT count(*) AS count
  FROM (SELECT FROM aliases WHERE model = $1 AND upper_inf(valid) AND version IS NOT NULL LIMIT $2)
""",
)

# What a rollback restored counts as where it was: the next one goes on from there. Deleted versions are passed over,
# and going to where the alias points already would be no move.
_BEFORE = Statement(
    "aliases.before",
    """
SELECT aliases.version, coalesce(restores, lower(valid)) AS origin
  FROM aliases LEFT JOIN versions ON versions.model = aliases.model AND versions.number = aliases.version
 WHERE aliases.model = $1 AND alias = $2 AND lower(valid) < $3
   AND aliases.version IS DISTINCT FROM $4::bigint AND versions.delete_time IS NULL
 ORDER BY lower(valid) DESC LIMIT 1
""",
)

_STATES = Statement(
    "versions.states",
    """
SELECT number, CASE WHEN delete_time IS NULL THEN state ELSE 'DELETED' END AS state FROM versions
 WHERE model = $1 AND number = ANY($2::bigint[]) FOR KEY SHARE
""",
)


_MOVE = AliasWrite("aliases.move", "SELECT next.value AS written, begun.* FROM next LEFT JOIN begun ON true")


class AliasStore:
    """
    Reads and moves aliases.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: AliasName, at: datetime | None) -> Read[Alias]:
        """
        Where an alias points, or pointed at some time.

        Raises:
            Missing: there is no such alias, or there was none.
            InvalidArgument: *at* is in the future.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.model, name.alias, at)
        if row["is_future"]:
            raise InvalidArgument.of("read_time", "must not be in the future")
        if row["version"] is None:
            raise Missing("ALIAS_NOT_FOUND", name, row["head"])
        return Read(rows.to_alias(row, name), row["head"])

    async def list_page(self, parent: ModelName, page: Page, version: int | None) -> Listed[Alias]:
        """
        A page of the aliases of a model, by name.

        Args:
            version: only those that point at it; None for all.

        Raises:
            Missing: there is no such model.
        """
        found = await self._database.fetch(_LIST, parent.namespace, parent.model, *after(page, 1), version)
        return listed(
            page, found, ("MODEL_NOT_FOUND", parent), lambda row: _alias(row, parent), lambda row: [row["alias"]]
        )

    async def history(self, name: AliasName, page: Page) -> Listed[AliasPeriod]:
        """
        A page of the moves of an alias, the newest first.

        Raises:
            Missing: there never was such an alias.
        """
        found = await self._database.fetch(_HISTORY, name.namespace, name.model, name.alias, *after(page, 1))
        return listed(page, found, ("ALIAS_NOT_FOUND", name), rows.to_alias_period, lambda row: [row["start_time"]])

    async def move(self, transaction: Transaction, parent: ModelName, moves: Sequence[Move]) -> list[Alias]:
        """
        Point aliases at versions, all or none.

        Returns:
            The aliases in the order of *moves*, without the removed ones.

        Raises:
            Missing: there is no such model or version.
            FailedPrecondition: a version is not READY.
            Aborted: an alias does not point where the client expects.
            ResourceExhausted: the model has as many aliases as one may have.
            ConditionsUnmet: rules do not allow it.
        """
        model = await lock_model(transaction, parent)
        current = await transaction.rows(_NOW, model["id"], [move.alias for move in moves])
        points_at = {row["alias"]: row["version"] for row in current}
        states = await states_of(transaction, model["id"], moves)
        for move in moves:
            check_move(parent, move, points_at.get(move.alias), states)
        # Pointing an alias where it points already is not a move: a rollback of it would change nothing.
        real = [move for move in moves if move.version != points_at.get(move.alias)]
        await check_count(transaction, parent, model["id"], real, points_at)
        moved = await _move(transaction, Moving(parent, model["id"], real, points_at))
        aliases = {row["alias"]: _alias(row, parent) for row in (*current, *moved)}
        return [aliases[move.alias] for move in moves if move.version is not None]

    async def rollback(self, transaction: Transaction, name: AliasName, expected: int | None) -> Alias:
        """
        Point an alias at the version that it pointed at before its last move; a removal is a move, too. After a
        rollback this is the move before the one that it took back.

        Args:
            expected: the number that it has to point at now; None when the client does not care.

        Raises:
            Missing: there never was such an alias, or no such model.
            FailedPrecondition: before that move it pointed at nothing.
            Aborted: it does not point where the client expects.
        """
        model = await lock_model(transaction, name.parent)
        now = await transaction.row(_NOW, model["id"], [name.alias])
        if now is None:
            raise Missing("ALIAS_NOT_FOUND", name)
        check_expected(name, expected, now["version"])
        before = await transaction.row(_BEFORE, model["id"], name.alias, now["origin"], now["version"])
        version, origin = (before["version"], before["origin"]) if before is not None else (None, None)
        move = Move(name.alias, check_moved(name, version))
        moving = Moving(name.parent, model["id"], [move], {name.alias: now["version"]}, origin)
        return _alias((await _move(transaction, moving))[0], name.parent)


async def target_of(transaction: Transaction, model: int, alias: str) -> int | None:
    """
    The number of the version that an alias points at; None for nowhere.
    """
    row = await transaction.row(_NOW, model, [alias])
    return None if row is None else row["version"]


async def check_count(
    transaction: Transaction, parent: ModelName, model: int, moves: Sequence[Move], points_at: Mapping[str, int | None]
) -> None:
    """
    Raises:
        ResourceExhausted: the model would have more aliases than one may have.
    """
    made = sum(move.version is not None and points_at.get(move.alias) is None for move in moves)
    removed = sum(move.version is None for move in moves)
    if made > removed:
        row = await transaction.row(_COUNT, model, limits.ALIASES.most + removed)
        assert row is not None  # noqa: S101 - for the type checker: a count has one row
        limits.ALIASES.check(parent, row["count"] + made - removed)


async def states_of(transaction: Transaction, model: int, moves: Sequence[Move]) -> dict[int, VersionState]:
    """
    The states of the versions that aliases are to point at, by their numbers. They are locked.
    """
    numbers = [move.version for move in moves if move.version is not None]
    return {row["number"]: VersionState(row["state"]) for row in await transaction.rows(_STATES, model, numbers)}


async def _move(transaction: Transaction, moving: Moving) -> Sequence[Row]:
    if not moving.moves:
        await transaction.nothing()
        return ()
    return await _MOVE.run(transaction, moving, Journal([], []))


def _alias(row: Row, parent: ModelName) -> Alias:
    return rows.to_alias(row, AliasName(parent.namespace, parent.model, row["alias"]))
