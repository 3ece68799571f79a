"""
AliasRuleService.
"""

from __future__ import annotations

from modelyard.registry.v1 import alias_rules_pb2 as pb
from modelyard.registry.v1 import policies_pb2
from modelyard.registry.v1.alias_rules_pb2_grpc import AliasRuleServiceServicer
from services.chassis.access.roles import Role
from services.chassis.checks import Checks
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.alias_rules import AliasRuleDraft, AliasRuleName
from services.registry.model.names import ModelName, NamespaceName
from services.registry.service.rendering import from_alias_rule
from services.registry.store.alias_rules import AliasRuleStore

_ROLES = {0: Role.NONE, **{value.number: Role(value.number) for value in policies_pb2.Policy.Role.DESCRIPTOR.values}}


class AliasRuleService(AliasRuleServiceServicer):
    """
    The servicer of modelyard.registry.v1.AliasRuleService.
    """

    def __init__(self, rules: AliasRuleStore, mutations: Mutations) -> None:
        self._rules = rules
        self._mutations = mutations

    async def SetAliasRule(self, request: pb.SetAliasRuleRequest, context: Context) -> pb.AliasRule:
        checks = Checks()
        name = checks.name(AliasRuleName, "rule.name", request.rule.name)
        draft = _draft(checks, request.rule)
        draft.check(checks, "rule")
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.AliasRule,
            lambda tx: self._rules.set(tx, name, draft, request.rule.etag),
            from_alias_rule,
            touches=[name.parent] if name.model else None,
        )

    async def GetAliasRule(self, request: pb.GetAliasRuleRequest, context: Context) -> pb.AliasRule:
        name = AliasRuleName.parse(request.name)
        return from_alias_rule((await reflect(context, self._rules.get(name))).value)

    async def ListAliasRules(self, request: pb.ListAliasRulesRequest, context: Context) -> pb.ListAliasRulesResponse:
        checks = Checks()
        kind: type[NamespaceName | ModelName] = ModelName if "/models/" in request.parent else NamespaceName
        parent = checks.name(kind, "parent", request.parent)
        query = Query("ListAliasRules", (request.parent,), (str,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._rules.list_page(parent, page))
        return pb.ListAliasRulesResponse(rules=map(from_alias_rule, found.items), next_page_token=found.token)

    async def DeleteAliasRule(self, request: pb.DeleteAliasRuleRequest, context: Context) -> pb.DeleteAliasRuleResponse:
        checks = Checks()
        name = checks.name(AliasRuleName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.DeleteAliasRuleResponse,
            lambda tx: self._rules.delete(tx, name, request.etag),
            lambda _: pb.DeleteAliasRuleResponse(),
            touches=[name.parent] if name.model else None,
        )


def _draft(checks: Checks, rule: pb.AliasRule) -> AliasRuleDraft:
    roles = {"mover_role": rule.mover_role, "approver_role": rule.approver_role}
    for field, role in roles.items():
        if role not in _ROLES:
            checks.add(f"rule.{field}", "is not a role")
    return AliasRuleDraft(
        tuple(dict.fromkeys(rule.aliases)),
        _ROLES.get(rule.mover_role, Role.NONE),
        tuple(dict.fromkeys(rule.movers)),
        rule.filter,
        rule.required_approvals,
        _ROLES.get(rule.approver_role, Role.NONE) or Role.MAINTAINER,
    )
