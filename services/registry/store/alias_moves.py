"""
Moves of aliases: the one place that writes them. `AliasWrite` has the only statement that does, and its `run` asks the
rules (docs/adr/0048), so that no way in can forget to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.chassis.access.identity import Identity
from services.chassis.checks import Checks
from services.chassis.errors import UnmetCondition
from services.ledger.model.changes import Change, ChangeKind, Entry, Image, Journal
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction, last
from services.registry.model.alias_rules import FILTER, AliasRule, People, protected
from services.registry.model.aliases import Move
from services.registry.model.names import AliasName, ModelName, VersionName
from services.registry.model.promotions import Promotion, PromotionName
from services.registry.model.search.filter_parser import parse_filter
from services.registry.store.alias_rules import rules_of
from services.registry.store.api_tokens import grant_now
from services.registry.store.policies import policies_now
from services.registry.store.search.version_filter import satisfies

# A period begins when the revision is taken, so that moves come in the order of their revisions. A clock that was set
# back must not make a period end before it began.
_MOVING = """
, moved AS (
    SELECT alias, version, greatest(next.moment, lower(valid) + interval '1 microsecond') AS start
      FROM next CROSS JOIN unnest($11::text[], $12::bigint[]) AS move (alias, version)
      LEFT JOIN LATERAL (SELECT valid FROM aliases WHERE model = $10 AND aliases.alias = move.alias
                                                     AND upper_inf(valid)) AS current ON true
), ended AS (
    UPDATE aliases SET valid = tstzrange(lower(aliases.valid), moved.start) FROM moved
     WHERE aliases.model = $10 AND aliases.alias = moved.alias AND upper_inf(aliases.valid)
    RETURNING 1
), begun AS (
    INSERT INTO aliases (model, alias, version, valid, actor, revision, restores)
    SELECT $10, alias, version, tstzrange(start, NULL), $4, value, $13::timestamptz
      FROM next, (SELECT count(*) FROM ended) AS all_have_ended, moved
    RETURNING alias, version, lower(valid) AS start_time, actor, revision
), superseded AS (
    UPDATE promotions SET state = 'SUPERSEDED', update_time = next.moment, revision = next.value FROM next
     WHERE model = $10 AND number = ANY($14::bigint[])
)
"""

_PENDING = Statement(
    "promotions.pending_of_aliases",
    """
SELECT number FROM promotions
 WHERE model = $1 AND alias = ANY($2::text[]) AND state = 'PENDING' AND number <> $3 ORDER BY number
""",
)


@dataclass(frozen=True, slots=True)
class Moving:
    """
    Moves of aliases of one model, which is locked.

    Args:
        parent: the model.
        key: of the model.
        moves: that change something.
        points_at: where the aliases point now.
        restores: the beginning of the period that a rollback restores.
        promotion: that asks for the move; None for a direct one.
    """

    parent: ModelName
    key: int
    moves: Sequence[Move]
    points_at: Mapping[str, int | None]
    restores: datetime | None = None
    promotion: Promotion | None = None

    def version(self, move: Move) -> VersionName | None:
        """
        The full name of where an alias moves; None when it is removed.
        """
        if move.version is None:
            return None
        return VersionName(self.parent.namespace, self.parent.model, move.version)

    def alias(self, move: Move) -> AliasName:
        """
        The full name of an alias.
        """
        return AliasName(self.parent.namespace, self.parent.model, move.alias)


@dataclass(frozen=True, slots=True)
class Unmet:
    """
    What rules demand of moves, and is not met.

    Args:
        conditions: of the versions.
        people: of those who move or have approved; none while access control is off.
    """

    conditions: Sequence[UnmetCondition]
    people: Sequence[UnmetCondition]


class AliasWrite:
    """
    A last statement that moves aliases.

    Args:
        name: see `Statement`.
        sql: as of `last`. `begun` are the periods that begin. Its own parameters begin at $15.
    """

    def __init__(self, name: str, sql: str) -> None:
        self._statement = last(name, f"{_MOVING}{sql}")

    async def run(self, transaction: Transaction, moving: Moving, own: Journal, *args: Any) -> list[Row]:
        """
        Ask the rules, and write.

        Args:
            own: what the write changes beside aliases.
            args: the statement's own parameters.

        Raises:
            ConditionsUnmet: rules do not allow the move (ALIAS_PROTECTED).
        """
        await check_rules(transaction, moving)
        aliases = [move.alias for move in moving.moves]
        promotion = moving.promotion.name.number if moving.promotion is not None else 0
        pending = await transaction.rows(_PENDING, moving.key, aliases, promotion) if aliases else []
        superseded = [row["number"] for row in pending]
        parts = [own, _moved(moving), _superseded(moving.parent, superseded)]
        journal = Journal(
            [each for part in parts for each in part.changes], [e for part in parts for e in part.entries]
        )
        versions = [move.version for move in moving.moves]
        columns = [moving.key, aliases, versions, moving.restores, superseded]
        return await transaction.last(self._statement, journal, *columns, *args)


async def check_rules(transaction: Transaction, moving: Moving) -> None:
    """
    Raises:
        ConditionsUnmet: rules do not allow the moves (ALIAS_PROTECTED).
    """
    # The version of a rollback has held the alias before; who may roll back is for the permission.
    if moving.restores is not None or not moving.moves:
        return
    unmet = await find_unmet(transaction, moving)
    people = unmet.people
    if people and _is_admin(transaction):
        transaction.break_glass()
        people = ()
    if unmet.conditions or people:
        raise protected(moving.parent, [move.alias for move in moving.moves], [*unmet.conditions, *people])


async def find_unmet(transaction: Transaction, moving: Moving) -> Unmet:
    """
    What the rules demand of moves, and is not met at this moment. The rules and the policies do not change until the
    transaction ends.
    """
    rules = await rules_of(transaction, moving.parent, moving.key)
    matching = {move.alias: [rule for rule in rules if rule.draft.matches(move.alias)] for move in moving.moves}
    conditions, people = [], []
    for move in moving.moves:
        for rule in matching[move.alias]:
            if not await _satisfies(transaction, moving, move, rule):
                text = f"version {move.version} does not satisfy {rule.draft.filter}"
                conditions.append(UnmetCondition(FILTER, str(rule.name), text))
    # A direct move of an unprotected alias needs only the permission of its RPC.
    asked = [move for move in moving.moves if matching[move.alias] or moving.promotion is not None]
    who = await _people(transaction, moving) if asked else None
    if who is not None:
        for move in asked:
            people += who.unmet(moving.alias(move), matching[move.alias])
    return Unmet(conditions, people)


def _is_admin(transaction: Transaction) -> bool:
    identity = transaction.write.identity
    return identity is not None and identity.is_admin


async def _people(transaction: Transaction, moving: Moving) -> People | None:
    identity: Identity | None = transaction.write.identity
    if identity is None:
        return None
    namespace, promotion = moving.parent.namespace, moving.promotion
    policies = await policies_now(transaction, namespace)
    if promotion is None:
        return People(policies, namespace, identity)
    # What an API token may do is no matter of the policies, which would give it what everybody may do.
    grant = await grant_now(transaction, promotion.requester)
    return People(policies, namespace, promotion.requested_by(grant), promotion.approvers)


async def _satisfies(transaction: Transaction, moving: Moving, move: Move, rule: AliasRule) -> bool:
    version = moving.version(move)
    if version is None or not rule.draft.filter.strip():
        return True
    condition = parse_filter(Checks(), "filter", rule.draft.filter)
    # What an earlier release could read and this one cannot is not satisfied.
    return condition is not None and await satisfies(transaction, moving.key, version, condition)


def _moved(moving: Moving) -> Journal:
    changes, entries = [], []
    for move in moving.moves:
        name = str(moving.alias(move))
        before = moving.points_at.get(move.alias)
        kind = ChangeKind.DELETED if move.version is None else ChangeKind.UPDATED if before else ChangeKind.CREATED
        changes.append(Change(name, kind))
        entries.append(Entry(name, _image(before), _image(move.version)))
    return Journal(changes, entries)


def _superseded(parent: ModelName, numbers: Sequence[int]) -> Journal:
    names = [str(PromotionName(parent.namespace, parent.model, number)) for number in numbers]
    return Journal(
        [Change(name, ChangeKind.UPDATED) for name in names],
        [Entry(name, {"state": "PENDING"}, {"state": "SUPERSEDED"}) for name in names],
    )


def _image(version: int | None) -> Image | None:
    return None if version is None else {"version": version}
