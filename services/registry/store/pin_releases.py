# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Pin claims and pending pin releases in the database (docs/adr/0017).

A row is a claim (a version is being pinned) or a release (its pins must be removed). A claim may become a release,
never the other way round, and that is committed before the asset service is asked to release: as long as a claim
exists, nothing has been released for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from services.chassis.errors import Aborted
from services.ledger.store.database import Database
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction
from services.registry.model.names import VersionName
from services.registry.model.pins import REST_SECONDS, Claim, PinRelease

_AT_ONCE = 16
_DUE = f"clock_timestamp() + interval '{REST_SECONDS} seconds'"

# The model first, as in every write. The version's lock serializes claiming, finalizing and failing it.
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

# A separate statement, so that it sees what was committed while it waited for the lock. Rows are locked in the order of
# their ids to avoid deadlocks.
_CLAIM = Statement(
    "unpins.claim",
    f"""
WITH release AS (
    UPDATE unpins SET claimed = false
     WHERE id = ANY (ARRAY(SELECT id FROM unpins WHERE owner = $1 ORDER BY id FOR UPDATE))
    RETURNING id, owner, request_id
), made AS (
    INSERT INTO unpins (owner, claimed, due) VALUES ($1, true, {_DUE}) RETURNING id
)
SELECT made.id AS claim, release.* FROM made LEFT JOIN release ON true
""",
)

# In the first part of a write, which must not wait for long: a row that is locked by another transaction counts as
# lost. `claimed` is read from the locked row, not from the snapshot.
_HELD = Statement(
    "unpins.held",
    """
SELECT unpins.id, coalesce(held.claimed, false) AS claimed
  FROM unpins LEFT JOIN (SELECT id, claimed FROM unpins WHERE owner = $1 FOR UPDATE SKIP LOCKED) AS held USING (id)
 WHERE unpins.owner = $1
""",
)

# The row is leased until `due`; after that any process may retry it. Exponential backoff from about 10 s to 10 minutes,
# with jitter.
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

_DELETE = Statement(
    "unpins.paid",
    """
DELETE FROM unpins
 WHERE id = ANY (ARRAY(SELECT id FROM unpins WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE))
""",
)


def release_pins(owners: str) -> str:
    """
    A common table expression `owed` for a last statement: schedules the release of the pins of deleted versions.

    Args:
        owners: SQL that selects their names, as `owner`.
    """
    return f"""
, owed AS (
    INSERT INTO unpins (owner, due) SELECT owner, {_DUE} FROM ({owners}) AS gone_owners
)
"""


def retain_pins(claim: str) -> str:
    """
    A common table expression `kept` for a last statement: retains what was pinned under a claim. See `check_claim`.

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
    Lock a claim, in a write that holds the version's lock.

    Raises:
        Aborted: the claim is lost: the pins may have been released since (PINS_TAKEN_BACK).
    """
    rows = await transaction.rows(_HELD, str(owner))
    if [(row["id"], row["claimed"]) for row in rows] != [(claim, True)]:
        raise Aborted(
            "PINS_TAKEN_BACK",
            f"{owner} is being finalized by another request, or finalizing took too long: retry",
            metadata={"resource": str(owner)},
            retry_after=0.1,
        )


class PinReleaseStore:
    """
    Reads and writes claims and releases. They are internal, so that no revision is assigned.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, name: VersionName, revision: int) -> Claim | None:
        """
        Claim the pins of a PENDING version. An earlier claim is invalidated.

        Args:
            revision: of the version as its artifacts are known.

        Returns:
            None when the version is no longer PENDING, or has changed.
        """
        primary = self._database.primary
        fetch: Any = asyncpg.Connection.fetch
        async with primary.connection() as connection, connection.transaction():
            if not await primary.on(connection, fetch, _LOCK, (name.namespace, name.model, name.number, revision)):
                return None
            rows: list[Row] = await primary.on(connection, fetch, _CLAIM, (str(name),))
        return Claim(rows[0]["claim"], tuple(_pin_release(row) for row in rows if row["id"] is not None))

    async def take_due(self) -> list[PinRelease]:
        """
        Lease some due releases and expired claims. They become due again later in case this process dies.
        """
        return [_pin_release(row) for row in await self._database.fetch(_TAKE, _AT_ONCE)]

    async def delete(self, releases: Sequence[PinRelease]) -> None:
        """
        Delete releases that the asset service has confirmed.
        """
        if releases:
            await self._database.fetch(_DELETE, [release.id for release in releases])


def _pin_release(row: Row) -> PinRelease:
    return PinRelease(row["id"], row["owner"], str(row["request_id"]))
