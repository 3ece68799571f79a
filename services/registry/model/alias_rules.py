"""
Rules that protect aliases: who may move them, what has to hold of the version, who has to approve.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.chassis.access.identity import Identity
from services.chassis.access.policies import Policies
from services.chassis.access.roles import PERMISSIONS, Role
from services.chassis.checks import Checks
from services.chassis.errors import ConditionsUnmet, InvalidArgument, UnmetCondition
from services.ledger.model.changes import Image
from services.registry.model.name_errors import name_error
from services.registry.model.names import ALIAS_ID, MODEL_ID, NAMESPACE_ID, AliasName, ModelName, NamespaceName
from services.registry.model.policies import check_members
from services.registry.model.search.filter_parser import parse_filter

_MOST_PATTERNS = 20
_MOST_APPROVALS = 20
# ALIAS_ID with stars.
_PATTERN = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._*-]{0,254}")
_NAME = re.compile(
    rf"namespaces/({NAMESPACE_ID.pattern})(?:/models/({MODEL_ID.pattern}))?/aliasRules/({ALIAS_ID.pattern})"
)
_FORMS = "namespaces/{namespace}/aliasRules/{rule} or namespaces/{namespace}/models/{model}/aliasRules/{rule}"

#: What a rule demands, as clients read it.
APPROVALS: Final = "APPROVALS"
MOVER: Final = "MOVER"
FILTER: Final = "FILTER"


@dataclass(frozen=True, slots=True)
class AliasRuleName:
    """
    namespaces/{namespace}/aliasRules/{rule}, or namespaces/{namespace}/models/{model}/aliasRules/{rule}.

    Args:
        model: empty for a rule of the namespace.
    """

    namespace: str
    model: str
    rule: str

    @classmethod
    def parse(cls, text: str, field: str = "name") -> AliasRuleName:
        """
        Raises:
            InvalidArgument: *text* is not such a name.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(field, name_error(text, _FORMS))
        return cls(match[1], match[2] or "", match[3])

    @classmethod
    def nowhere(cls) -> AliasRuleName:
        """
        See `Name`.
        """
        return cls("", "", "")

    @property
    def parent(self) -> NamespaceName | ModelName:
        """
        What the rule is of.
        """
        return ModelName(self.namespace, self.model) if self.model else NamespaceName(self.namespace)

    def __str__(self) -> str:
        return f"{self.parent}/aliasRules/{self.rule}"


@dataclass(frozen=True, slots=True)
class AliasRuleDraft:
    """
    What a client sets.

    Args:
        aliases: patterns; * stands for any characters.
        mover_role: least role of who may move them; NONE when roles do not matter.
        movers: members who may, whatever their role.
        filter: over the version; empty for none.
        required_approvals: of people other than the requester.
        approver_role: least role of an approver.
    """

    aliases: tuple[str, ...]
    mover_role: Role = Role.NONE
    movers: tuple[str, ...] = ()
    filter: str = ""
    required_approvals: int = 0
    approver_role: Role = Role.MAINTAINER

    def check(self, checks: Checks, at: str) -> None:
        """
        Report invalid fields; *at* is the path of the rule in the request.
        """
        checks.size(f"{at}.aliases", self.aliases, _MOST_PATTERNS)
        for index, pattern in enumerate(self.aliases[:_MOST_PATTERNS]):
            if not _PATTERN.fullmatch(pattern):
                checks.add(f"{at}.aliases[{index}]", "must be the id of an alias, in which * stands for any characters")
        check_members(checks, f"{at}.movers", self.movers)
        parse_filter(checks, f"{at}.filter", self.filter)
        if not 0 <= self.required_approvals <= _MOST_APPROVALS:
            checks.add(f"{at}.required_approvals", f"must be from 0 to {_MOST_APPROVALS}")
        if self.approver_role < Role.WRITER:
            checks.add(f"{at}.approver_role", "must be at least writer")
        if not (self.restricts_movers or self.filter.strip() or self.required_approvals):
            checks.add(at, "demands nothing: set mover_role, movers, filter or required_approvals")

    @property
    def restricts_movers(self) -> bool:
        """
        Whether it says who may move the aliases.
        """
        return self.mover_role is not Role.NONE or bool(self.movers)

    def image(self) -> Image:
        """
        The rule as the audit log records it.
        """
        return {
            "aliases": list(self.aliases),
            "mover_role": self.mover_role.name.lower(),
            "movers": list(self.movers),
            "filter": self.filter,
            "required_approvals": self.required_approvals,
            "approver_role": self.approver_role.name.lower(),
        }

    def matches(self, alias: str) -> bool:
        """
        Whether it protects an alias.
        """
        return any(_matches(pattern, alias) for pattern in self.aliases)


@dataclass(frozen=True, slots=True)
class AliasRule:
    """
    A stored rule.
    """

    name: AliasRuleName
    draft: AliasRuleDraft
    create_time: datetime
    update_time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class People:
    """
    Who stands behind a move, with what they may do at this moment.

    Args:
        policies: of the namespace and of the registry, now.
        namespace: its id.
        requester: who moves the alias, or has requested the promotion.
        approvers: of the promotion; none for a move without one.
    """

    policies: Policies
    namespace: str
    requester: Identity
    approvers: Sequence[Identity] = ()

    def role(self, person: Identity) -> Role:
        """
        The role of one of them, without break-glass access.
        """
        return self.policies.role(person.without_admin(), self.namespace)

    def unmet(self, alias: AliasName, rules: Iterable[AliasRule]) -> list[UnmetCondition]:
        """
        What the rules demand of people, and is not met.

        Args:
            rules: those that protect the alias.
        """
        everybody = (self.requester, *self.approvers)
        found = []
        if not any(self.role(each) >= PERMISSIONS["aliases.write"] for each in everybody):
            found.append(UnmetCondition(MOVER, str(alias), "needs somebody who may move aliases: a maintainer"))
        for rule in rules:
            draft = rule.draft
            if draft.restricts_movers and not any(self._may_move(draft, each) for each in everybody):
                found.append(UnmetCondition(MOVER, str(rule.name), f"only {_movers(draft)} may move {alias.alias}"))
            missing = draft.required_approvals - self._approvals(draft)
            if missing > 0:
                found.append(
                    UnmetCondition(
                        APPROVALS,
                        str(rule.name),
                        f"needs {missing} more of {draft.required_approvals} approvals by people other than the "
                        f"requester, with the role {draft.approver_role.name.lower()} or above",
                    )
                )
        return found

    def _may_move(self, draft: AliasRuleDraft, person: Identity) -> bool:
        if draft.mover_role is not Role.NONE and self.role(person) >= draft.mover_role:
            return True
        return not set(person.members()).isdisjoint(draft.movers)

    def _approvals(self, draft: AliasRuleDraft) -> int:
        subjects = {each.subject for each in self.approvers if self.role(each) >= draft.approver_role}
        return len(subjects - {self.requester.subject})


def least_approver(rules: Iterable[AliasRule]) -> Role:
    """
    The least role whose approval counts for one of the rules.
    """
    roles = [rule.draft.approver_role for rule in rules if rule.draft.required_approvals]
    return min(roles, default=PERMISSIONS["aliases.write"])


def protected(parent: ModelName, aliases: Sequence[str], unmet: Sequence[UnmetCondition]) -> ConditionsUnmet:
    """
    The error of a move that rules do not allow.
    """
    shown = ", ".join(aliases[:10])
    first = unmet[0]
    advice = "record what is missing, or choose another version"
    if any(each.type == APPROVALS for each in unmet):
        advice = f"request a promotion: modelyard promotions request {parent} {aliases[0]} VERSION"
    more = f" (and {len(unmet) - 1} more)" if len(unmet) > 1 else ""
    return ConditionsUnmet(
        "ALIAS_PROTECTED",
        f"{shown} of {parent}: {first.subject.rpartition('/')[2]} {first.description}{more}; {advice}",
        unmet,
        metadata={"resource": str(parent), "aliases": ",".join(aliases[:100])},
    )


def _movers(draft: AliasRuleDraft) -> str:
    members = list(draft.movers[:5])
    if draft.mover_role is not Role.NONE:
        members.insert(0, f"the role {draft.mover_role.name.lower()} or above")
    return ", ".join(members) + (", …" if len(draft.movers) > 5 else "")


def _matches(pattern: str, alias: str) -> bool:
    """
    Compare part by part: a regular expression with many stars would take exponential time.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return alias == pattern
    *inner, final = rest
    if not (alias.startswith(first) and alias.endswith(final) and len(alias) >= len(first) + len(final)):
        return False
    position, end = len(first), len(alias) - len(final)
    for part in inner:
        found = alias.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
