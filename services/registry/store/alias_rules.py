# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Rules of aliases in the database.

A move and a change of a rule exclude each other: a rule of a model is written under the lock of the model, one of a
namespace under that of the namespace, which moves share. So a move obeys the rules of the revision before its own.
"""

from __future__ import annotations

from typing import Any

from services.chassis.access.roles import Role
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import ChangeKind, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import after, listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction, last
from services.registry.model import limits
from services.registry.model.alias_rules import AliasRule, AliasRuleDraft, AliasRuleName
from services.registry.model.names import ModelName, NamespaceName
from services.registry.store.locks import lock_model

_COLUMNS = """rule_id, aliases, mover_role, movers, filter, required_approvals, approver_role,
 alias_rules.create_time, alias_rules.update_time, alias_rules.revision"""

_GET = read(
    "alias_rules.get",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {_COLUMNS} FROM alias_rules LEFT JOIN models ON models.id = alias_rules.model
              WHERE alias_rules.namespace_id = $1 AND rule_id = $3
                AND coalesce(models.model_id, '') = $2 AND models.delete_time IS NULL) AS found ON true
""",
)

# No column of the parent may be NULL: 0 stands for the namespace.
_LIST = page_of(
    "alias_rules.list",
    f"""
SELECT {_COLUMNS}, 512 + octet_length(filter) + octet_length(movers::text) + octet_length(aliases::text) AS octets
  FROM alias_rules
 WHERE namespace_id = $1 AND coalesce(model, 0) = parent.id AND rule_id > coalesce($3::text, '')
 ORDER BY rule_id LIMIT $4
""",
    parent="""
SELECT 0::bigint AS id FROM namespaces WHERE $2::text = '' AND namespace_id = $1
 UNION ALL
SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL
""",
)

_LOCK_NAMESPACE = Statement(
    "alias_rules.lock_namespace", "SELECT namespace_id FROM namespaces WHERE namespace_id = $1 FOR NO KEY UPDATE"
)
_SHARE_NAMESPACE = Statement(
    "alias_rules.share_namespace", "SELECT namespace_id FROM namespaces WHERE namespace_id = $1 FOR SHARE"
)
# A statement of its own, after the locks: it sees what was committed before them.
_OF_MODEL = Statement(
    "alias_rules.of_model",
    f"""
SELECT {_COLUMNS}, model IS NOT NULL AS is_of_model FROM alias_rules
 WHERE namespace_id = $1 AND (model IS NULL OR model = $2) ORDER BY model NULLS FIRST, rule_id
""",
)
_CURRENT = Statement(
    "alias_rules.lock",
    f"""
SELECT {_COLUMNS} FROM alias_rules
 WHERE namespace_id = $1 AND model IS NOT DISTINCT FROM $2::bigint AND rule_id = $3 FOR NO KEY UPDATE
""",
)
_COUNT = Statement(
    "alias_rules.count",
    "SELECT count(*) AS count FROM alias_rules WHERE namespace_id = $1 AND model IS NOT DISTINCT FROM $2::bigint",
)

_SET = last(
    "alias_rules.set",
    f"""
, made AS (
    INSERT INTO alias_rules (namespace_id, model, rule_id, aliases, mover_role, movers, filter, required_approvals,
                             approver_role, create_time, update_time, revision)
    SELECT $10, $11::bigint, $12, $13::text[], $14::smallint, $15::text[], $16, $17::smallint, $18::smallint,
           next.moment, next.moment, next.value
      FROM next
    ON CONFLICT (namespace_id, model, rule_id) DO UPDATE
       SET aliases = excluded.aliases, mover_role = excluded.mover_role, movers = excluded.movers,
           filter = excluded.filter, required_approvals = excluded.required_approvals,
           approver_role = excluded.approver_role, update_time = excluded.update_time, revision = excluded.revision
    RETURNING {_COLUMNS}
)
SELECT made.revision AS written, made.* FROM made
""",
)

_DELETE = last(
    "alias_rules.delete",
    """
, gone AS (
    DELETE FROM alias_rules USING next
     WHERE namespace_id = $10 AND model IS NOT DISTINCT FROM $11::bigint AND rule_id = $12
    RETURNING next.value
)
SELECT gone.value AS written FROM gone
""",
)


class AliasRuleStore:
    """
    Reads and writes rules of aliases.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: AliasRuleName) -> Read[AliasRule]:
        """
        Raises:
            Missing: there is no such rule.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.model, name.rule)
        if row["rule_id"] is None:
            raise Missing("ALIAS_RULE_NOT_FOUND", name, row["head"])
        return Read(_rule(row, name), row["head"])

    async def list_page(self, parent: NamespaceName | ModelName, page: Page) -> Listed[AliasRule]:
        """
        A page of the rules of a namespace, or of a model alone, by name.

        Raises:
            Missing: there is no such namespace or model.
        """
        model = parent.model if isinstance(parent, ModelName) else ""
        found = await self._database.fetch(_LIST, parent.namespace, model, *after(page, 1))
        missing = ("MODEL_NOT_FOUND" if model else "NAMESPACE_NOT_FOUND", parent)
        return listed(
            page,
            found,
            missing,
            lambda row: _rule(row, AliasRuleName(parent.namespace, model, row["rule_id"])),
            lambda row: [row["rule_id"]],
        )

    async def set(self, transaction: Transaction, name: AliasRuleName, draft: AliasRuleDraft, etag: str) -> AliasRule:
        """
        Create or replace a rule.

        Args:
            etag: of the rule that the client read; empty when it does not care.

        Raises:
            Missing: there is no such namespace or model.
            Aborted: it has changed since the client read it.
            ResourceExhausted: its parent has as many rules as one may have.
        """
        model = await _lock_parent(transaction, name)
        row = await transaction.row(_CURRENT, name.namespace, model, name.rule)
        check_etag(name, etag, row["revision"] if row is not None else 0)
        if row is None:
            count = await transaction.row(_COUNT, name.namespace, model)
            assert count is not None  # noqa: S101 - for the type checker: a count has one row
            limits.ALIAS_RULES.check(name.parent, count["count"] + 1)
            journal = Journal.created(name, draft.image())
        else:
            journal = Journal.updated(name, _rule(row, name).draft.image(), draft.image())
        columns: list[Any] = [
            name.namespace,
            model,
            name.rule,
            list(draft.aliases),
            int(draft.mover_role),
            list(draft.movers),
            draft.filter,
            draft.required_approvals,
            int(draft.approver_role),
        ]
        return _rule((await transaction.last(_SET, journal, *columns))[0], name)

    async def delete(self, transaction: Transaction, name: AliasRuleName, etag: str) -> None:
        """
        Raises:
            Missing: there is no such rule.
            Aborted: it has changed since the client read it.
        """
        try:
            model = await _lock_parent(transaction, name)
        except Missing:
            raise Missing("ALIAS_RULE_NOT_FOUND", name) from None
        row = await transaction.row(_CURRENT, name.namespace, model, name.rule)
        if row is None:
            raise Missing("ALIAS_RULE_NOT_FOUND", name)
        check_etag(name, etag, row["revision"])
        journal = Journal.of(name, ChangeKind.DELETED, _rule(row, name).draft.image(), None)
        await transaction.last(_DELETE, journal, name.namespace, model, name.rule)


async def rules_of(transaction: Transaction, parent: ModelName, model: int) -> list[AliasRule]:
    """
    The rules of a model's aliases; they do not change until the transaction ends.

    Args:
        model: the model's key, which is locked.
    """
    await transaction.row(_SHARE_NAMESPACE, parent.namespace)
    return [
        _rule(row, AliasRuleName(parent.namespace, parent.model if row["is_of_model"] else "", row["rule_id"]))
        for row in await transaction.rows(_OF_MODEL, parent.namespace, model)
    ]


async def _lock_parent(transaction: Transaction, name: AliasRuleName) -> int | None:
    if name.model:
        return int((await lock_model(transaction, ModelName(name.namespace, name.model)))["id"])
    if await transaction.row(_LOCK_NAMESPACE, name.namespace) is None:
        raise Missing("NAMESPACE_NOT_FOUND", name.parent)
    return None


def _rule(row: Row, name: AliasRuleName) -> AliasRule:
    draft = AliasRuleDraft(
        tuple(row["aliases"]),
        Role(row["mover_role"]),
        tuple(row["movers"]),
        row["filter"],
        row["required_approvals"],
        Role(row["approver_role"]),
    )
    return AliasRule(name, draft, row["create_time"], row["update_time"], row["revision"])
