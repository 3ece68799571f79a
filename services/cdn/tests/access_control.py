"""
The asset service with access control, and callers with tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf.duration_pb2 import Duration

from embedded.parts import free_port
from embedded.postgres import owner
from modelyard import aio
from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.registry.v1 import policies_pb2
from modelyard.tokens import AUDIENCE, ISSUER, key_set, make_key, mint
from services.cdn.tests.calls import digest, upload
from services.cdn.tests.conftest import Cdn, World, serving_here

__all__ = ["AccessControlled", "access_controlled"]


Policy = policies_pb2.Policy
PROBE = b"probe"
# Seconds until a policy holds: more than a busy machine needs.
_PATIENCE = 30.0


class Policies:
    """
    The stream of policies of a registry. At first everybody may read everything, as in the registry.

    Attributes:
        revision: of the policies.
        silent: no stream is served, and those that are open end.
    """

    def __init__(self) -> None:
        self._policies = {"policy": _policy("policy", maintainer="everyone")}
        self.revision = 1
        self._news = asyncio.Event()
        self.silent = False

    def set(self, name: str, *, private: bool = False, **roles: str) -> None:
        """
        Set the policy of a namespace, with members separated by spaces; that of the registry if *name* is empty.
        """
        full = f"namespaces/{name}/policy" if name else "policy"
        self._policies[full] = _policy(full, private=private, **roles)
        self._tell()

    def silence(self, silent: bool) -> None:
        """
        Be reachable or not.
        """
        self.silent = silent
        self._tell()

    async def watch(
        self, _request: policies_pb2.WatchPoliciesRequest, _context: object
    ) -> AsyncIterator[policies_pb2.WatchPoliciesResponse]:
        """
        All policies, again after each change: what a stream may tell.
        """
        began = time.monotonic()
        while not self.silent:
            news, now = self._news, time.monotonic()
            current = Duration()
            current.FromNanoseconds(int((now - began) * 1e9))
            yield policies_pb2.WatchPoliciesResponse(
                policies=self._policies.values(), complete=True, applied_revision=self.revision, current_until=current
            )
            try:
                await asyncio.wait_for(news.wait(), 0.25)
            except TimeoutError:
                continue

    def _tell(self) -> None:
        self.revision += 1
        self._news.set()
        self._news = asyncio.Event()


def _policy(name: str, *, private: bool = False, **roles: str) -> Policy:
    bindings = [
        Policy.Binding(role=Policy.Role.Value(f"ROLE_{role.upper()}"), members=members.split())
        for role, members in roles.items()
    ]
    return Policy(name=name, bindings=bindings, private=private)


@dataclass(frozen=True)
class AccessControlled:
    """
    A service that accepts tokens.

    Args:
        key: that signs them.
        policies: that it follows.
    """

    cdn: Cdn
    key: Path
    policies: Policies

    def as_(self, subject: str, *scopes: str, groups: tuple[str, ...] = ()) -> aio.Client:
        """
        A client with a token of the given subject.
        """
        scopes = scopes or ("assets.read", "assets.write")
        return aio.connect(self.cdn.target, mint(self.key, subject, scopes, 600.0, groups=groups))

    async def pin(self, version: str, *digests: str) -> None:
        """
        Pin assets for namespaces/{version}, as the registry does.

        Args:
            version: "vision/models/m/versions/1".
        """
        async with self.as_("modelyard-registry", "assets.pin") as registry:
            names = [f"assets/{sha256}" for sha256 in digests]
            await registry.assets.Pin(pb.PinRequest(names=names, owner=f"namespaces/{version}"))

    async def set_policy(self, name: str, *, private: bool = False, **roles: str) -> None:
        """
        Set the policy of a namespace, or of the registry if *name* is empty, and wait until it holds: a caller who is
        bound in the same message can read then.
        """
        self.policies.set(name, private=private, **roles)
        prober = f"prober-{self.policies.revision}"
        self.policies.set("probe", private=True, reader=f"user:{prober} user:all")
        request = pb.GetAssetRequest(name=f"assets/{self.probe}")
        async with asyncio.timeout(_PATIENCE), self.as_(prober) as client:
            while True:
                try:
                    await client.assets.GetAsset(request)
                except grpc.RpcError:
                    await asyncio.sleep(0.01)
                else:
                    return

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """
        The service's database, as its owner.
        """
        connection = await asyncpg.connect(owner(self.cdn.place.database))
        try:
            yield connection
        finally:
            await connection.close()

    async def follows(self) -> None:
        """
        Wait until the service knows the policies.
        """
        async with asyncio.timeout(_PATIENCE), self.as_("prober") as client:
            while True:
                try:
                    await client.assets.ListAssets(pb.ListAssetsRequest())
                except grpc.RpcError:
                    await asyncio.sleep(0.01)
                else:
                    break
            await upload(client.assets, PROBE)
        await self.pin("probe/models/m/versions/1", self.probe)

    @property
    def probe(self) -> str:
        """
        The digest of an asset in the namespace `probe`.
        """
        return digest(PROBE)


@asynccontextmanager
async def access_controlled(
    world: World, folder: Path, mode: str = "read-public", **more: Any
) -> AsyncIterator[AccessControlled]:
    """
    Serve while the block lasts.

    Args:
        more: further settings.
    """
    key, public = folder / "key.pem", folder / "jwks.json"
    make_key(key)
    public.write_text(key_set(key))
    settings: dict[str, Any] = {
        "MODELYARD_ACCESS": mode,
        "MODELYARD_JWKS_FILE": str(public),
        "MODELYARD_JWT_ISSUER": ISSUER,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
    }
    token = folder / "token"
    token.write_text(mint(key, "modelyard-cdn", ("registry.follow",), 600.0))
    target, policies, registry = f"127.0.0.1:{free_port()}", Policies(), grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        policies.watch,
        policies_pb2.WatchPoliciesRequest.FromString,
        policies_pb2.WatchPoliciesResponse.SerializeToString,
    )
    service = "modelyard.registry.v1.PolicyService"
    registry.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"WatchPolicies": handler}),))
    registry.add_insecure_port(target)
    await registry.start()
    settings |= {"MODELYARD_REGISTRY_TARGET": target, "MODELYARD_SERVICE_TOKEN_FILE": str(token)}
    try:
        async with serving_here(world, **settings, **more) as cdn:
            found = AccessControlled(cdn, key, policies)
            await found.follows()
            yield found
    finally:
        policies.silence(True)
        await registry.stop(None)
