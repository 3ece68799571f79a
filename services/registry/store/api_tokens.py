# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
API tokens in the database: their hashes, never the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from services.chassis.access.api_tokens import LiveToken
from services.chassis.access.identity import API_TOKEN_SUBJECT
from services.chassis.access.roles import Role
from services.chassis.errors import ResourceExhausted
from services.ledger.model.calls import Missing, Read
from services.ledger.model.changes import Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model.api_tokens import KEPT, MOST_TOKENS, ApiToken, ApiTokenDraft, ApiTokenName
from services.registry.model.names import NamespaceName

_COLUMNS = """namespace_id, token_id, display_name, role, scopes, creator, create_time, expire_time, revoke_time,
 last_use_time, revision"""
_AT_ONCE = 10_000

_GET = read(
    "api_tokens.get",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {_COLUMNS} FROM api_tokens WHERE namespace_id = $1 AND token_id = $2) AS found ON true
""",
)

_LIST = page_of(
    "api_tokens.list",
    f"""
SELECT {_COLUMNS}, 512 AS octets FROM api_tokens
 WHERE namespace_id = $1 AND ($2::timestamptz IS NULL OR (create_time, token_id) < ($2, $3))
 ORDER BY create_time DESC, token_id DESC LIMIT $4
""",
    "SELECT namespace_id FROM namespaces WHERE namespace_id = $1",
)

# Not by a replica, as the policies. One that expired today is still told from one that never existed.
_LIVE = """
SELECT namespace_id, token_id, hash, role, scopes, expire_time FROM api_tokens
 WHERE revoke_time IS NULL AND expire_time > now() - interval '1 day'
"""
_LOAD = Statement("api_tokens.load", _LIVE)
_LOAD_OF = Statement("api_tokens.load_of", f"{_LIVE} AND namespace_id = ANY($1)")

# Two that create tokens in a namespace would both find room for the last one.
_LOCK_PARENT = Statement(
    "api_tokens.lock_parent", "SELECT namespace_id FROM namespaces WHERE namespace_id = $1 FOR NO KEY UPDATE"
)
_COUNT = Statement(
    "api_tokens.count",
    """
SELECT count(*) AS count FROM api_tokens WHERE namespace_id = $1 AND revoke_time IS NULL AND expire_time > now()
""",
)

_CREATE = last(
    "api_tokens.create",
    f"""
, made AS (
    INSERT INTO api_tokens (namespace_id, token_id, hash, display_name, role, scopes, creator, create_time, expire_time,
                            revision)
    SELECT $10, $11, $12, $13, $14, $15, $4, moment, $16, value FROM next
    RETURNING {_COLUMNS}
)
SELECT made.revision AS written, made.* FROM made
""",
)

_LOCK = Statement(
    "api_tokens.lock",
    f"SELECT {_COLUMNS} FROM api_tokens WHERE namespace_id = $1 AND token_id = $2 FOR NO KEY UPDATE",
)

_REVOKE = last(
    "api_tokens.revoke",
    f"""
, made AS (
    UPDATE api_tokens SET revoke_time = next.moment, revision = next.value FROM next
     WHERE namespace_id = $10 AND token_id = $11
    RETURNING {_COLUMNS}
)
SELECT made.revision AS written, made.* FROM made
""",
)

# A revocation waits until the transaction ends.
_SHARE = Statement(
    "api_tokens.share",
    """
SELECT role FROM api_tokens
 WHERE namespace_id = $1 AND token_id = $2 AND revoke_time IS NULL AND expire_time > now() FOR SHARE
""",
)

# No write of the ledger: nothing depends on it, and nobody wants to read of each use. Rows are locked in order, so that
# two processes do not wait for each other; clocks that are ahead do not tell of the future.
_USED = Statement(
    "api_tokens.record_use",
    """
WITH used AS (
    SELECT api_tokens.namespace_id, api_tokens.token_id, least(use.time, now()) AS time
      FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS use (namespace_id, token_id, time)
      JOIN api_tokens ON api_tokens.namespace_id = use.namespace_id AND api_tokens.token_id = use.token_id
     WHERE api_tokens.last_use_time IS NULL OR api_tokens.last_use_time < use.time
     ORDER BY 1, 2 FOR NO KEY UPDATE OF api_tokens
)
UPDATE api_tokens SET last_use_time = used.time FROM used
 WHERE api_tokens.namespace_id = used.namespace_id AND api_tokens.token_id = used.token_id
""",
)

_FORGET = Statement(
    "api_tokens.forget",
    f"""
WITH removed AS (
    DELETE FROM api_tokens
     WHERE (namespace_id, token_id) IN (
           SELECT namespace_id, token_id FROM api_tokens WHERE least(expire_time, revoke_time) < now() - $1::interval
            ORDER BY least(expire_time, revoke_time) LIMIT {_AT_ONCE} FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS count FROM removed
""",
)


class ApiTokenStore:
    """
    Reads and writes API tokens.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: ApiTokenName) -> Read[ApiToken]:
        """
        Raises:
            Missing: there is no such token.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.token)
        if row["token_id"] is None:
            raise Missing("TOKEN_NOT_FOUND", name, row["head"])
        return Read(_token(row), row["head"])

    async def list_page(self, page: Page, parent: NamespaceName) -> Listed[ApiToken]:
        """
        A page of the tokens of a namespace, the newest first.

        Raises:
            Missing: there is no such namespace.
        """
        found = await self._database.fetch(_LIST, parent.namespace, *after(page, 2))
        return listed(page, found, ("NAMESPACE_NOT_FOUND", parent), _token, _key)

    async def load(self, namespaces: Collection[str] | None = None) -> Mapping[str, list[LiveToken]]:
        """
        The live tokens by the ids of their namespaces.

        Args:
            namespaces: whose tokens; None for all.
        """
        if namespaces is None:
            rows = await self._database.fetch(_LOAD)
        else:
            rows = await self._database.fetch(_LOAD_OF, sorted(namespaces))
        found: dict[str, list[LiveToken]] = {namespace: [] for namespace in namespaces or ()}
        for row in rows:
            found.setdefault(row["namespace_id"], []).append(
                LiveToken(
                    row["token_id"],
                    row["hash"],
                    Role(row["role"]),
                    frozenset(row["scopes"]),
                    row["expire_time"].timestamp(),
                )
            )
        return found

    async def create(
        self, transaction: Transaction, name: ApiTokenName, token_hash: bytes, draft: ApiTokenDraft
    ) -> ApiToken:
        """
        Raises:
            Missing: there is no such namespace.
            ResourceExhausted: it has too many tokens.
        """
        if await transaction.row(_LOCK_PARENT, name.namespace) is None:
            raise Missing("NAMESPACE_NOT_FOUND", name.parent)
        row = await transaction.row(_COUNT, name.namespace)
        if row is not None and row["count"] >= MOST_TOKENS:
            raise ResourceExhausted(
                "TOO_MANY_TOKENS",
                f"{name.parent} has {MOST_TOKENS:,} tokens, which is the most: revoke those that are not used any more",
                metadata={"limit": str(MOST_TOKENS)},
            )
        made = await transaction.last(
            _CREATE,
            Journal.created(name, draft.image()),
            name.namespace,
            name.token,
            token_hash,
            draft.display_name,
            int(draft.role),
            sorted(draft.scopes),
            draft.expires,
        )
        return _token(made[0])

    async def revoke(self, transaction: Transaction, name: ApiTokenName) -> ApiToken:
        """
        Raises:
            Missing: there is no such token.
        """
        row = await transaction.row(_LOCK, name.namespace, name.token)
        if row is None:
            raise Missing("TOKEN_NOT_FOUND", name)
        before = _token(row)
        if before.revoked is not None:
            await transaction.nothing()
            return before
        journal = Journal.updated(name, before.draft.image(), before.draft.image(revoked=True))
        return _token((await transaction.last(_REVOKE, journal, name.namespace, name.token))[0])

    async def record_uses(self, uses: Mapping[ApiTokenName, datetime]) -> None:
        """
        Record when tokens were used last; those that do not exist any more are ignored.
        """
        if uses:
            names = list(uses)
            values = ([each.namespace for each in names], [each.token for each in names], list(uses.values()))
            await self._database.fetch(_USED, *values)

    async def forget(self) -> int:
        """
        Delete tokens that were revoked or have expired long ago; a bounded number of them.

        Returns:
            How many were deleted.
        """
        count: int = (await self._database.fetch_row(_FORGET, KEPT))["count"]
        return count


async def grant_now(transaction: Transaction, subject: str) -> tuple[str, Role] | None:
    """
    What an API token may do until the transaction ends, as in `Identity`: no role if it is revoked or has expired.

    Args:
        subject: of calls with it.

    Returns:
        None if it is not the subject of an API token.
    """
    if not subject.startswith(API_TOKEN_SUBJECT):
        return None
    try:
        name = ApiTokenName.of_subject(subject)
    except ValueError:
        # While access control was off, callers said what they liked.
        return "", Role.NONE
    row = await transaction.row(_SHARE, name.namespace, name.token)
    return name.namespace, Role(row["role"]) if row is not None else Role.NONE


async def creator_of(transaction: Transaction, subject: str) -> str | None:
    """
    Who created an API token.

    Args:
        subject: of calls with it.

    Returns:
        None if it is not the subject of an API token, or there is no such token any more.
    """
    if not subject.startswith(API_TOKEN_SUBJECT):
        return None
    try:
        name = ApiTokenName.of_subject(subject)
    except ValueError:
        return None
    row = await transaction.row(_GET, name.namespace, name.token)
    return None if row is None else row["creator"]


def _token(row: Row) -> ApiToken:
    draft = ApiTokenDraft(row["display_name"], Role(row["role"]), frozenset(row["scopes"]), row["expire_time"])
    name = ApiTokenName(row["namespace_id"], row["token_id"])
    return ApiToken(
        name, draft, row["creator"], row["create_time"], row["revoke_time"], row["last_use_time"], row["revision"]
    )


def _key(row: Row) -> list[str | datetime]:
    return [row["create_time"], row["token_id"]]
