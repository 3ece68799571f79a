# ruff: noqa: S608 - only constants are interpolated; values are parameters
"""
Promotions in the database. A promotion, its last approval and the move that it asks for are written by one statement.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.chassis.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from services.ledger.model.calls import Missing, Read, check_etag
from services.ledger.model.changes import Change, ChangeKind, Entry, Journal
from services.ledger.model.pages import Listed, Page
from services.ledger.store.database import Database
from services.ledger.store.paging import listed, page_of
from services.ledger.store.servers import Row
from services.ledger.store.statements import HEAD, Statement, read
from services.ledger.store.transactions import Transaction
from services.registry.model import limits
from services.registry.model.alias_rules import People, least_approver, protected
from services.registry.model.aliases import Move, check_move
from services.registry.model.names import ModelName
from services.registry.model.promotions import (
    Promotion,
    PromotionName,
    PromotionRequest,
    PromotionState,
    Review,
    check_not_own,
    check_pending,
)
from services.registry.store import rows
from services.registry.store.alias_moves import AliasWrite, Moving, find_unmet
from services.registry.store.alias_rules import rules_of
from services.registry.store.aliases import check_count, states_of, target_of
from services.registry.store.api_tokens import creator_of
from services.registry.store.locks import lock_model
from services.registry.store.policies import policies_now

_COLUMNS = """promotions.number, promotions.alias, promotions.version, promotions.from_version, promotions.comment,
 promotions.state, promotions.requester, promotions.groups, promotions.reviews, promotions.move_revision,
 promotions.create_time, promotions.update_time, promotions.revision"""

_OCTETS = "1024 + 2 * octet_length(reviews::text) + octet_length(comment)"

_GET = read(
    "promotions.get",
    f"""
SELECT revision.value AS head, found.*
  FROM {HEAD}
  LEFT JOIN (SELECT {_COLUMNS} FROM promotions JOIN models ON models.id = promotions.model
              WHERE models.namespace_id = $1 AND models.model_id = $2 AND models.delete_time IS NULL
                AND promotions.number = $3) AS found ON true
""",
)

_LIST = page_of(
    "promotions.list",
    f"""
SELECT {_COLUMNS}, parent.model_id, promotions.id, {_OCTETS} AS octets
  FROM promotions
 WHERE promotions.model = parent.id AND ($3::bigint IS NULL OR number < $3) AND ($5 = '' OR state = $5)
   AND ($6 = '' OR alias = $6)
 ORDER BY number DESC LIMIT $4
""",
    parent="SELECT id, model_id FROM models WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL",
)
_LIST_ALL = page_of(
    "promotions.list_all",
    f"""
SELECT {_COLUMNS}, models.model_id, promotions.id, {_OCTETS} AS octets
  FROM promotions JOIN models ON models.id = promotions.model
 WHERE promotions.namespace_id = $1 AND models.delete_time IS NULL AND ($2::bigint IS NULL OR promotions.id < $2)
   AND ($4 = '' OR state = $4) AND ($5 = '' OR alias = $5)
 ORDER BY promotions.id DESC LIMIT $3
""",
    parent="SELECT namespace_id FROM namespaces WHERE namespace_id = $1",
)

# Under the lock of the model.
_NEXT = Statement(
    "promotions.next",
    """
SELECT coalesce((SELECT number FROM promotions WHERE model = $1 ORDER BY number DESC LIMIT 1), 0) + 1 AS number,
       count(*) AS pending, min(number) FILTER (WHERE alias = $2 AND version IS NOT DISTINCT FROM $3::bigint) AS same
  FROM promotions WHERE model = $1 AND state = 'PENDING'
""",
)
_CURRENT = Statement("promotions.lock", f"SELECT {_COLUMNS} FROM promotions WHERE model = $1 AND number = $2")

# Reviews without a time are those of this write.
_WRITE = AliasWrite(
    "promotions.write",
    f"""
, kept AS (
    INSERT INTO promotions (namespace_id, model, number, alias, version, from_version, comment, state, requester,
                            groups, reviews, move_revision, create_time, update_time, revision)
    SELECT $15, $10, $16::bigint, $17, $18::bigint, $19::bigint, $20, $21, $22, $23::text[],
           (SELECT coalesce(jsonb_agg(jsonb_build_object('time', next.moment) || review), '[]')
              FROM jsonb_array_elements($24::jsonb) AS review),
           CASE $21 WHEN 'DONE' THEN next.value ELSE 0 END, next.moment, next.moment, next.value
      FROM next
    ON CONFLICT (model, number) DO UPDATE
       SET state = excluded.state, reviews = excluded.reviews, move_revision = excluded.move_revision,
           update_time = excluded.update_time, revision = excluded.revision
    RETURNING {_COLUMNS}
)
SELECT kept.revision AS written, kept.* FROM kept
""",
)


@dataclass(frozen=True, slots=True)
class PromotionFilter:
    """
    Which promotions to list; empty means all.

    Args:
        model: None for all models of the namespace.
    """

    namespace: str
    model: str | None
    state: str
    alias: str


class PromotionStore:
    """
    Reads and writes promotions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: PromotionName) -> Read[Promotion]:
        """
        Raises:
            Missing: there is no such promotion.
        """
        row = await self._database.fetch_row(_GET, name.namespace, name.model, name.number)
        if row["number"] is None:
            raise Missing("PROMOTION_NOT_FOUND", name, row["head"])
        return Read(_promotion(row, name.parent), row["head"])

    async def list_page(self, wanted: PromotionFilter, page: Page, missing: tuple[str, object]) -> Listed[Promotion]:
        """
        A page of promotions, the newest first.

        Args:
            missing: reason and name for when the parent is not there.

        Raises:
            Missing: there is no such namespace or model.
        """
        key = page.after[0] if page.after is not None else None
        if wanted.model is None:
            args = [wanted.namespace, key, page.size + 1, wanted.state, wanted.alias]
            found = await self._database.fetch(_LIST_ALL, *args)
        else:
            args = [wanted.namespace, wanted.model, key, page.size + 1, wanted.state, wanted.alias]
            found = await self._database.fetch(_LIST, *args)
        column = "id" if wanted.model is None else "number"
        return listed(
            page,
            found,
            missing,
            lambda row: _promotion(row, ModelName(wanted.namespace, row["model_id"])),
            lambda row: [row[column]],
        )

    async def create(self, transaction: Transaction, request: PromotionRequest) -> Promotion:
        """
        Request a promotion, and carry it out if nothing is missing.

        Raises:
            Missing: there is no such model or version.
            FailedPrecondition: the version is not READY, the alias points there already, or a condition does not hold.
            AlreadyExists: the same promotion is pending.
            ResourceExhausted: the model has as many promotions or aliases as one may have.
        """
        parent = request.parent
        key = (await lock_model(transaction, parent))["id"]
        now = await target_of(transaction, key, request.alias)
        row = await transaction.row(_NEXT, key, request.alias, request.version)
        assert row is not None  # noqa: S101 - for the type checker: an aggregate has one row
        if now == request.version:
            raise _unchanged(request)
        if row["same"] is not None:
            name = PromotionName(parent.namespace, parent.model, row["same"])
            raise AlreadyExists("PROMOTION_PENDING", str(name), f"{name} asks for the same: review it")
        limits.PROMOTIONS.check(parent, row["number"])
        identity = transaction.write.identity
        promotion = Promotion(
            PromotionName(parent.namespace, parent.model, row["number"]),
            request.alias,
            request.version,
            now,
            request.comment,
            PromotionState.PENDING,
            _subject(transaction),
            tuple(sorted(identity.groups)) if identity is not None else (),
        )
        promotion = await self._settled(transaction, key, promotion)
        if promotion.state is PromotionState.PENDING:
            limits.PENDING_PROMOTIONS.check(parent, row["pending"] + 1)
        return await _write(transaction, key, promotion, None)

    async def approve(self, transaction: Transaction, name: PromotionName, comment: str, etag: str) -> Promotion:
        """
        Approve a promotion, and carry it out if nothing else is missing.

        Raises:
            Missing: there is no such promotion.
            PermissionDenied: the caller's approval counts for no rule.
            FailedPrecondition: it is closed, the caller's own, or a condition does not hold.
            Aborted: it has changed since the client read it.
            ResourceExhausted: the model has as many aliases as one may have.
        """
        key, before = await _pending(transaction, name, etag)
        await _check_not_own(transaction, before)
        await _check_reviewer(transaction, key, before)
        reviewed = before.reviewed(_review(transaction, comment, approved=True))
        promotion = await self._settled(transaction, key, reviewed)
        return await _write(transaction, key, promotion, before)

    async def reject(self, transaction: Transaction, name: PromotionName, comment: str, etag: str) -> Promotion:
        """
        Close a promotion.

        Raises:
            Missing: there is no such promotion.
            PermissionDenied: the caller's approval would count for no rule.
            FailedPrecondition: it is closed, or the caller's own.
            Aborted: it has changed since the client read it.
        """
        key, before = await _pending(transaction, name, etag)
        await _check_not_own(transaction, before)
        await _check_reviewer(transaction, key, before)
        reviewed = before.reviewed(_review(transaction, comment, approved=False))
        return await _write(transaction, key, replace(reviewed, state=PromotionState.REJECTED), before)

    async def cancel(self, transaction: Transaction, name: PromotionName, etag: str) -> Promotion:
        """
        Withdraw a promotion.

        Raises:
            Missing: there is no such promotion.
            PermissionDenied: the caller neither requested it nor may move aliases.
            FailedPrecondition: it is closed.
            Aborted: it has changed since the client read it.
        """
        key, before = await _pending(transaction, name, etag)
        identity = transaction.write.identity
        if identity is not None and before.requester != identity.subject:
            policies = await policies_now(transaction, name.namespace)
            may = policies.may(identity.without_admin(), "aliases.write", name.namespace)
            if not may and not identity.is_admin:
                raise PermissionDenied(
                    "NOT_REQUESTER",
                    f"{name} was requested by somebody else: only they and those who may move aliases cancel it",
                    metadata={"resource": str(name)},
                )
            if not may:
                transaction.break_glass()
        return await _write(transaction, key, replace(before, state=PromotionState.CANCELLED), before)

    async def _settled(self, transaction: Transaction, key: int, promotion: Promotion) -> Promotion:
        """
        The promotion as it is with what is there now: DONE, or PENDING with what is missing.

        Raises:
            Missing, FailedPrecondition: the alias may not point at the version, whoever approves.
        """
        moving = _moving(key, promotion)
        points_at = await target_of(transaction, key, promotion.alias)
        states = await states_of(transaction, key, moving.moves)
        for move in moving.moves:
            check_move(moving.parent, move, points_at, states)
        unmet = await find_unmet(transaction, moving)
        if unmet.conditions:
            raise protected(moving.parent, [promotion.alias], [*unmet.conditions, *unmet.people])
        identity = transaction.write.identity
        if unmet.people and not (identity is not None and identity.is_admin):
            return replace(promotion, missing=tuple(unmet.people))
        await check_count(transaction, moving.parent, key, moving.moves, moving.points_at)
        return replace(promotion, state=PromotionState.DONE)


async def _pending(transaction: Transaction, name: PromotionName, etag: str) -> tuple[int, Promotion]:
    """
    The key of the model, which is locked, and the promotion.
    """
    try:
        key = (await lock_model(transaction, name.parent))["id"]
    except Missing:
        raise Missing("PROMOTION_NOT_FOUND", name) from None
    row = await transaction.row(_CURRENT, key, name.number)
    if row is None:
        raise Missing("PROMOTION_NOT_FOUND", name)
    promotion = _promotion(row, name.parent)
    check_pending(promotion)
    check_etag(name, etag, promotion.revision)
    return key, promotion


async def _check_not_own(transaction: Transaction, promotion: Promotion) -> None:
    """
    Raises:
        FailedPrecondition: the caller, or an API token that the caller has created, requested the promotion.
    """
    subject = _subject(transaction)
    check_not_own(promotion, subject)
    if await creator_of(transaction, promotion.requester) == subject:
        check_not_own(replace(promotion, requester=subject), subject)


async def _check_reviewer(transaction: Transaction, key: int, promotion: Promotion) -> None:
    """
    Raises:
        PermissionDenied: the caller is an API token, or has the role of no rule's approvers.
    """
    identity = transaction.write.identity
    if identity is None:
        return
    if identity.is_api_token:
        raise PermissionDenied(
            "API_TOKEN",
            f"people review promotions, API tokens do not: sign in to review {promotion.name} (docs/promotions.md)",
            metadata={"resource": str(promotion.name)},
        )
    name = promotion.name
    rules = await rules_of(transaction, name.parent, key)
    least = least_approver([rule for rule in rules if rule.draft.matches(promotion.alias)])
    people = People(await policies_now(transaction, name.namespace), name.namespace, identity)
    if people.role(identity) >= least:
        return
    if identity.is_admin:
        transaction.break_glass()
        return
    raise PermissionDenied(
        "APPROVER_ROLE",
        f"who reviews {name} needs the role {least.name.lower()} or above: ask one of the owners (docs/promotions.md)",
        metadata={"resource": str(name), "role": least.name.lower()},
    )


async def _write(transaction: Transaction, key: int, promotion: Promotion, before: Promotion | None) -> Promotion:
    moving = _moving(key, promotion)
    if promotion.state is not PromotionState.DONE:
        moving = replace(moving, moves=())
    kind = ChangeKind.CREATED if before is None else ChangeKind.UPDATED
    entry = Entry(str(promotion.name), before.image() if before is not None else None, promotion.image())
    own = Journal([Change(str(promotion.name), kind)], [entry])
    made = await _WRITE.run(
        transaction,
        moving,
        own,
        promotion.name.namespace,
        promotion.name.number,
        promotion.alias,
        promotion.version,
        promotion.from_version,
        promotion.comment,
        promotion.state,
        promotion.requester,
        list(promotion.groups),
        _packed(promotion.reviews),
    )
    return replace(_promotion(made[0], moving.parent), missing=promotion.missing)


def _moving(key: int, promotion: Promotion) -> Moving:
    # Every other move of the alias supersedes the promotion: it points where it pointed.
    move = Move(promotion.alias, promotion.version, promotion.from_version, promotion.from_version is None)
    points_at = {promotion.alias: promotion.from_version}
    return Moving(promotion.name.parent, key, [move], points_at, promotion=promotion)


def _review(transaction: Transaction, comment: str, *, approved: bool) -> Review:
    identity = transaction.write.identity
    groups = tuple(sorted(identity.groups)) if identity is not None else ()
    return Review(_subject(transaction), groups, approved, comment)


def _subject(transaction: Transaction) -> str:
    identity = transaction.write.identity
    return transaction.write.actor if identity is None else identity.subject


def _unchanged(request: PromotionRequest) -> FailedPrecondition:
    there = "nothing" if request.version is None else f"version {request.version}"
    return FailedPrecondition(
        "ALIAS_UNCHANGED",
        f"{request.alias_name} points at {there} already",
        metadata={"resource": str(request.alias_name)},
    )


def _packed(reviews: Sequence[Review]) -> str:
    return rows.packed(
        [
            {
                "subject": each.subject,
                "groups": list(each.groups),
                "approved": each.approved,
                "comment": each.comment,
                **({"time": each.time.isoformat()} if each.time is not None else {}),
            }
            for each in reviews
        ]
    )


def _promotion(row: Row, parent: ModelName) -> Promotion:
    reviews = tuple(
        Review(
            each["subject"],
            tuple(each["groups"]),
            each["approved"],
            each["comment"],
            datetime.fromisoformat(each["time"]),
        )
        for each in json.loads(row["reviews"])
    )
    return Promotion(
        PromotionName(parent.namespace, parent.model, row["number"]),
        row["alias"],
        row["version"],
        row["from_version"],
        row["comment"],
        PromotionState(row["state"]),
        row["requester"],
        tuple(row["groups"]),
        reviews,
        (),
        row["move_revision"],
        row["create_time"],
        row["update_time"],
        row["revision"],
    )
