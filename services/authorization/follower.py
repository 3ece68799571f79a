"""
Keeps the policies and API tokens of this process current: they follow the registry's stream of policies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from modelyard.registry.v1 import policies_pb2 as pb
from modelyard.registry.v1 import tokens_pb2
from services.chassis.access import ServiceToken
from services.chassis.access.api_tokens import LiveToken
from services.chassis.access.identity import API_TOKEN_SUBJECT
from services.chassis.access.policies import REGISTRY, Bindings, Policies
from services.chassis.access.roles import Role
from services.chassis.serving.background import Work, beside, every

_PATH = "/modelyard.registry.v1.PolicyService/WatchPolicies"
_RECORD = "/modelyard.registry.v1.ApiTokenService/RecordTokenUse"
_RECORD_SECONDS = 5.0
_MOST_USES = 1000
_HEARTBEAT = 0.5
_RETRY = (0.05, 1.0)
# Missed heartbeats after which a stream is given up.
_MOST_MISSED = 6


class PolicyFollower:
    """
    Follows the policies.

    Args:
        channel: of a worker of the registry; called for each stream.
        token: of this service.
        policies: kept current.
    """

    def __init__(self, channel: Callable[[], grpc.aio.Channel], token: ServiceToken, policies: Policies) -> None:
        self._channel = channel
        self._token = token
        self._policies = policies

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """
        Follow them while the block runs.
        """
        report = every(1.0, self._report_uses, "report the use of tokens")
        async with beside(self._follow(), report):
            yield

    async def _follow(self) -> None:
        # Not part of readiness: without the policies, reads go to the registry, which is slower and still correct.
        work = Work("follow-policies", "follow the policies of the registry", retry=_RETRY)
        await work.forever(self._read, pause=0.0)

    async def _read(self) -> None:
        watch: Any = self._channel().unary_stream(
            _PATH,
            request_serializer=pb.WatchPoliciesRequest.SerializeToString,
            response_deserializer=pb.WatchPoliciesResponse.FromString,
        )
        began = time.monotonic()
        request = pb.WatchPoliciesRequest(heartbeat_interval=Duration(nanos=int(_HEARTBEAT * 1e9)))
        call = watch(request, metadata=self._token.metadata())
        changed: dict[str, Bindings | None] = {}
        tokens: dict[str, list[LiveToken]] = {}
        try:
            while True:
                async with asyncio.timeout(_MOST_MISSED * _HEARTBEAT):
                    message = await call.read()
                if not isinstance(message, pb.WatchPoliciesResponse):
                    return
                changed.update((_key(policy.name), _bindings(policy)) for policy in message.policies)
                changed.update((_key(name), None) for name in message.deleted)
                tokens.update((_key(found.parent), list(map(_token, found.tokens))) for found in message.tokens)
                if message.applied_revision:
                    self._apply(message, changed, tokens, began)
                    changed, tokens = {}, {}
        finally:
            call.cancel()

    async def _report_uses(self) -> None:
        uses = self._policies.tokens.take_uses()
        if not uses:
            return
        record: Any = self._channel().unary_unary(
            _RECORD,
            request_serializer=tokens_pb2.RecordTokenUseRequest.SerializeToString,
            response_deserializer=Empty.FromString,
        )
        try:
            found = list(uses.items())
            for start in range(0, len(found), _MOST_USES):
                request = tokens_pb2.RecordTokenUseRequest()
                for subject, used in found[start : start + _MOST_USES]:
                    name = "namespaces/{}/tokens/{}".format(*subject.removeprefix(API_TOKEN_SUBJECT).split("/"))
                    request.uses.add(name=name).time.FromNanoseconds(int(used * 1e9))
                await record(request, metadata=self._token.metadata(), timeout=_RECORD_SECONDS)
        except BaseException:
            self._policies.tokens.put_back(uses)
            raise

    def _apply(
        self,
        message: pb.WatchPoliciesResponse,
        changed: dict[str, Bindings | None],
        tokens: dict[str, list[LiveToken]],
        began: float,
    ) -> None:
        if message.complete:
            self._policies.reset(message.applied_revision)
        self._policies.apply(changed, tokens, complete=message.complete)
        current = float("-inf")
        if message.HasField("current_until"):
            # By the local clock, and never too late: the stream started after the call was made.
            current = began + message.current_until.seconds + message.current_until.nanos / 1e9
        self._policies.heard(message.applied_revision, current)


def _key(name: str) -> str:
    return REGISTRY if name == "policy" else name.split("/")[1]


def _token(token: pb.WatchPoliciesResponse.Token) -> LiveToken:
    expires = token.expire_time.seconds + token.expire_time.nanos / 1e9
    return LiveToken(token.token_id, token.hash, Role(token.role), frozenset(token.scopes), expires)


def _bindings(policy: pb.Policy) -> Bindings:
    roles: dict[str, Role] = {}
    for binding in sorted(policy.bindings, key=lambda each: each.role):
        roles.update(dict.fromkeys(binding.members, Role(binding.role)))
    return Bindings(roles, policy.private)
