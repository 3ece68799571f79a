"""
PolicyService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from modelyard.registry.v1 import policies_pb2 as pb
from modelyard.registry.v1.policies_pb2_grpc import PolicyServiceServicer
from services.chassis.access.policies import NOWHERE, REGISTRY, Policies
from services.chassis.access.roles import Role
from services.chassis.checks import Checks
from services.chassis.errors import PermissionDenied
from services.chassis.interceptors import identity
from services.chassis.serving.context import Context
from services.ledger.service.calls import Mutations, reflect
from services.ledger.service.changes import heartbeat_of
from services.ledger.store.change_feed import ChangeFeed
from services.registry.model.names import NamespaceName
from services.registry.model.policies import PolicyDraft, PolicyName, check_permissions
from services.registry.service.rendering import from_policy, from_policy_event
from services.registry.store.api_tokens import ApiTokenStore
from services.registry.store.policies import PolicyStore
from services.registry.store.policy_follower import watch_policies

_ROLES = {
    pb.Policy.ROLE_READER: Role.READER,
    pb.Policy.ROLE_WRITER: Role.WRITER,
    pb.Policy.ROLE_MAINTAINER: Role.MAINTAINER,
    pb.Policy.ROLE_OWNER: Role.OWNER,
}


class PolicyService(PolicyServiceServicer):
    """
    The servicer of modelyard.registry.v1.PolicyService.

    Args:
        store: the stored policies.
        policies: those that decide.
        tokens: the stored API tokens.
        feed: the change stream.
        mutations: runs the writes.
    """

    def __init__(
        self, store: PolicyStore, policies: Policies, tokens: ApiTokenStore, feed: ChangeFeed, mutations: Mutations
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._feed = feed
        self._policies = policies
        self._mutations = mutations

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> pb.Policy:
        name = PolicyName.parse(request.name)
        return from_policy((await reflect(context, self._store.get(name))).value)

    async def SetPolicy(self, request: pb.SetPolicyRequest, context: Context) -> pb.Policy:
        checks = Checks()
        name = checks.name(PolicyName, "policy.name", request.policy.name)
        draft = _draft(checks, request.policy)
        draft.check(checks, "policy", name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        if (caller := identity()) is not None and caller.is_api_token:
            raise PermissionDenied(
                "API_TOKEN",
                "an API token cannot set a policy, which would outlive its revocation: sign in to set it",
            )
        return await self._mutations.do(
            context,
            request,
            pb.Policy,
            lambda tx: self._store.set(tx, name, draft, request.policy.etag),
            from_policy,
            touches=None,
        )

    async def WatchPolicies(
        self, request: pb.WatchPoliciesRequest, _context: Context
    ) -> AsyncIterator[pb.WatchPoliciesResponse]:
        checks = Checks()
        heartbeat = heartbeat_of(checks, request)
        checks.raise_if_any()
        async with aclosing(watch_policies(self._store, self._tokens, self._feed, heartbeat)) as events:
            async for event in events:
                for part in from_policy_event(event):
                    yield part

    async def TestPermissions(
        self, request: pb.TestPermissionsRequest, _context: Context
    ) -> pb.TestPermissionsResponse:
        checks = Checks()
        namespace = REGISTRY
        if request.resource:
            namespace = checks.name(NamespaceName, "resource", request.resource).namespace
        wanted = check_permissions(checks, "permissions", list(request.permissions))
        checks.raise_if_any()
        caller = identity()
        if caller is not None and namespace != REGISTRY and self._policies.role(caller, namespace) < Role.READER:
            # To be told of no permissions would tell that it exists, where the registry's policy gives some everywhere.
            namespace = NOWHERE
        # While access control is off, everybody may do everything.
        held = wanted if caller is None else [each for each in wanted if self._policies.may(caller, each, namespace)]
        return pb.TestPermissionsResponse(permissions=held)


def _draft(checks: Checks, policy: pb.Policy) -> PolicyDraft:
    members: dict[Role, dict[str, None]] = {}
    for index, binding in enumerate(policy.bindings):
        role = _ROLES.get(binding.role)
        if role is None:
            checks.add(f"policy.bindings[{index}].role", f"must be one of {', '.join(map(_name, _ROLES))}")
        else:
            members.setdefault(role, {}).update(dict.fromkeys(binding.members))
    return PolicyDraft({role: tuple(found) for role, found in members.items()}, policy.private)


def _name(role: int) -> str:
    return pb.Policy.Role.Name(pb.Policy.Role.ValueType(role))
