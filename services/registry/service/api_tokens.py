"""
ApiTokenService.
"""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.empty_pb2 import Empty

from modelyard.registry.v1 import policies_pb2
from modelyard.registry.v1 import tokens_pb2 as pb
from modelyard.registry.v1.tokens_pb2_grpc import ApiTokenServiceServicer
from services.chassis.access import Identity
from services.chassis.access.api_tokens import SCOPES, hash_of, make
from services.chassis.access.policy import ADMINISTERED
from services.chassis.access.roles import Role
from services.chassis.checks import Checks
from services.chassis.errors import PermissionDenied
from services.chassis.interceptors import identity
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.registry.model.api_tokens import MOST_USES, ApiToken, ApiTokenDraft, ApiTokenName
from services.registry.model.names import NamespaceName
from services.registry.service.parsing import to_time
from services.registry.service.rendering import from_api_token
from services.registry.store.api_tokens import ApiTokenStore

_ROLES = {policies_pb2.Policy.Role.Value(f"ROLE_{role.name}"): role for role in SCOPES}


class ApiTokenService(ApiTokenServiceServicer):
    """
    The servicer of modelyard.registry.v1.ApiTokenService.
    """

    def __init__(self, tokens: ApiTokenStore, mutations: Mutations) -> None:
        self._tokens = tokens
        self._mutations = mutations

    async def CreateApiToken(self, request: pb.CreateApiTokenRequest, context: Context) -> pb.CreateApiTokenResponse:
        checks, now = Checks(), datetime.now(UTC)
        parent = checks.name(NamespaceName, "parent", request.parent)
        draft = _draft(checks, request.api_token)
        draft.check(checks, "api_token", now)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        if (caller := identity()) is not None:
            _check_creator(caller, draft)
        token_id, secret = make()
        name = ApiTokenName(parent.namespace, token_id)

        def render(made: ApiToken) -> pb.CreateApiTokenResponse:
            # Stored for retries: without the secret.
            return pb.CreateApiTokenResponse(api_token=from_api_token(made, now))

        response = await self._mutations.do(
            context,
            request,
            pb.CreateApiTokenResponse,
            lambda tx: self._tokens.create(tx, name, hash_of(secret), draft),
            render,
            touches=None,
        )
        # A retry returns the token of the first attempt, whose secret nobody has kept.
        if response.api_token.name != str(name):
            return response
        return pb.CreateApiTokenResponse(api_token=response.api_token, secret=secret)

    async def GetApiToken(self, request: pb.GetApiTokenRequest, context: Context) -> pb.ApiToken:
        name = ApiTokenName.parse(request.name)
        return from_api_token((await reflect(context, self._tokens.get(name))).value, datetime.now(UTC))

    async def ListApiTokens(self, request: pb.ListApiTokensRequest, context: Context) -> pb.ListApiTokensResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        query = Query("ListApiTokens", (str(parent),), (datetime, str))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found, now = await reflect(context, self._tokens.list_page(page, parent)), datetime.now(UTC)
        items = [from_api_token(each, now) for each in found.items]
        return pb.ListApiTokensResponse(api_tokens=items, next_page_token=found.token)

    async def RevokeApiToken(self, request: pb.RevokeApiTokenRequest, context: Context) -> pb.ApiToken:
        checks = Checks()
        name = checks.name(ApiTokenName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.ApiToken,
            lambda tx: self._tokens.revoke(tx, name),
            lambda revoked: from_api_token(revoked, datetime.now(UTC)),
            touches=None,
        )

    async def RecordTokenUse(self, request: pb.RecordTokenUseRequest, _context: Context) -> Empty:
        checks = Checks()
        checks.size("uses", request.uses, MOST_USES)
        uses = {
            checks.name(ApiTokenName, f"uses[{index}].name", use.name): to_time(checks, f"uses[{index}].time", use.time)
            for index, use in enumerate(request.uses[:MOST_USES])
        }
        checks.raise_if_any()
        await self._tokens.record_uses(uses)
        return Empty()


def _draft(checks: Checks, token: pb.ApiToken) -> ApiTokenDraft:
    role = _ROLES.get(token.role, Role.NONE)
    scopes = frozenset(token.scopes) or SCOPES.get(role, frozenset())
    expires = None
    if token.HasField("expire_time"):
        expires = to_time(checks, "api_token.expire_time", token.expire_time)
    return ApiTokenDraft(token.display_name, role, scopes, expires)


def _check_creator(caller: Identity, draft: ApiTokenDraft) -> None:
    """
    Raises:
        PermissionDenied: the caller may not give away what the token can do.
    """
    if caller.grant is not None:
        raise PermissionDenied(
            "API_TOKEN",
            "an API token cannot create others, which would outlive its revocation: sign in to create one",
        )
    for scope in sorted(draft.scopes):
        if scope not in caller.scopes and not (caller.is_admin and scope.startswith(ADMINISTERED)):
            raise PermissionDenied(
                "SCOPE_MISSING",
                f"a token with the scope {scope} is created by a caller who has it: name fewer in api_token.scopes",
                metadata={"scope": scope},
            )
