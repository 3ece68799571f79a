# ruff: noqa: S608 - only SQL of our own goes into these texts; values are parameters
"""
Pins that have to be taken back, in the database until they are (docs/adr/0017).

A row is a claim or a debt. A claim becomes a debt, never the other way round, and that is committed before anybody asks
the asset service to take pins back for it: whoever finds a claim in place knows that nobody has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from services.chassis.errors import Aborted
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.writing import Transaction
from services.registry.model.names import VersionName
from services.registry.model.pins import REST_SECONDS, Claim, Debt

_AT_ONCE = 16
_DUE = f"clock_timestamp() + interval '{REST_SECONDS} seconds'"

# The model first, as every write. The version's lock brings those who claim it, finalize it or fail it into one order.
_LOCK = Statement(
    "unpins.lock_version",
    """
WITH model AS (
    SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL FOR SHARE
)
SELECT true FROM model JOIN versions ON versions.model = model.id
 WHERE versions.number = $3 AND versions.state = 'PENDING' AND versions.revision = $4 FOR NO KEY UPDATE OF versions
""",
)

# A statement of its own: it sees what was committed while the lock was waited for. Whoever locks several rows and waits
# locks them in the order of their ids.
_CLAIM = Statement(
    "unpins.claim",
    f"""
WITH debt AS (
    UPDATE unpins SET claimed = false
     WHERE id = ANY (ARRAY(SELECT id FROM unpins WHERE owner = $1 ORDER BY id FOR UPDATE))
    RETURNING id, owner, request_id
), made AS (
    INSERT INTO unpins (owner, claimed, due) VALUES ($1, true, {_DUE}) RETURNING id
)
SELECT made.id AS claim, debt.* FROM made LEFT JOIN debt ON true
""",
)

# In the first part of a write, where nobody may wait for long: a row that somebody else holds counts as lost. `claimed`
# is that of the locked row, not of the snapshot.
_HELD = Statement(
    "unpins.held",
    """
SELECT unpins.id, coalesce(held.claimed, false) AS claimed
  FROM unpins LEFT JOIN (SELECT id, claimed FROM unpins WHERE owner = $1 FOR UPDATE SKIP LOCKED) AS held USING (id)
 WHERE unpins.owner = $1
""",
)

# Whoever takes a row has until `due` to pay it; then it is anybody's again. About 10 s the first time, 10 minutes in
# the end, and never in step.
_TAKE = Statement(
    "unpins.take",
    """
UPDATE unpins
   SET claimed = false, attempts = attempts + 1,
       due = now() + least(power(2, least(attempts, 10)), 60) * (0.5 + random()) * interval '10 seconds'
 WHERE id = ANY (ARRAY(SELECT id FROM unpins WHERE due <= now() ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING id, owner, request_id
""",
)

_PAID = Statement(
    "unpins.paid",
    """
DELETE FROM unpins
 WHERE id = ANY (ARRAY(SELECT id FROM unpins WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE))
""",
)


def owe(owners: str) -> str:
    """
    A common table expression `owed` for a last statement: the pins of versions that are gone have to be taken back.

    Args:
        owners: SQL that selects their names, as `owner`.
    """
    return f"""
, owed AS (
    INSERT INTO unpins (owner, due) SELECT owner, {_DUE} FROM ({owners}) AS gone_owners
)
"""


def keep(claim: str) -> str:
    """
    A common table expression `kept` for a last statement: what was pinned under a claim stays. See `check_claim`.

    Args:
        claim: SQL of its id, or of NULL.
    """
    return f"""
, kept AS (
    DELETE FROM unpins WHERE id = {claim}::bigint
)
"""


async def check_claim(transaction: Transaction, owner: VersionName, claim: int | None) -> None:
    """
    Lock a claim, in a write that holds the lock of the version.

    Raises:
        Aborted: it is lost: what was pinned may have been taken back since.
    """
    rows = await transaction.rows(_HELD, str(owner))
    if [(row["id"], row["claimed"]) for row in rows] != [(claim, True)]:
        raise Aborted(
            "PINS_TAKEN_BACK",
            f"somebody else finalizes {owner}, too, or it took too long: retry",
            metadata={"resource": str(owner)},
            retry_after=0.1,
        )


class UnpinStore:
    """
    Reads and writes claims and debts. Nothing here takes a revision: nobody can see it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, name: VersionName, revision: int) -> Claim | None:
        """
        Claim the pins of a PENDING version. Whoever had claimed them loses that.

        Args:
            revision: of the version as its artifacts are known.

        Returns:
            None when the version is not PENDING any more, or not as it was.
        """
        primary = self._database.primary
        fetch: Any = asyncpg.Connection.fetch
        async with primary.connection() as connection, connection.transaction():
            if not await primary.on(connection, fetch, _LOCK, (name.namespace, name.model, name.number, revision)):
                return None
            rows: list[Row] = await primary.on(connection, fetch, _CLAIM, (str(name),))
        return Claim(rows[0]["claim"], tuple(_debt(row) for row in rows if row["id"] is not None))

    async def take(self) -> list[Debt]:
        """
        Some debts that are due, with the claims that nobody came back for. They are due again later, in case that
        whoever takes them does not come back either.
        """
        return [_debt(row) for row in await self._database.fetch(_TAKE, _AT_ONCE)]

    async def paid(self, debts: Sequence[Debt]) -> None:
        """
        Forget debts that the asset service has answered for.
        """
        if debts:
            await self._database.fetch(_PAID, [debt.id for debt in debts])


def _debt(row: Row) -> Debt:
    return Debt(row["id"], row["owner"], str(row["request_id"]))
