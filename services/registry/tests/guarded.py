"""
A registry with access control on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from modelyard.registry.v1 import namespaces_pb2, policies_pb2
from services.registry.tests.server import Registry, running
from tests.tokens import Issuer, settings

ALL = "registry.read registry.write"
POLICY = policies_pb2.Policy


@dataclass
class Guarded:
    """
    A registry with access control on, and who issues its tokens.
    """

    registry: Registry
    issuer: Issuer

    def as_(self, subject: str, scope: str = ALL, **claims: Any) -> dict[str, Any]:
        """
        The arguments of a call of *subject*.
        """
        return {"metadata": [("authorization", f"Bearer {self.issuer.mint(scope, sub=subject, **claims)}")]}

    async def set_policy(self, name: str, *, private: bool = False, **roles: str) -> None:
        """
        Set a policy, with members separated by spaces, and wait until it holds.
        """
        bindings = [
            POLICY.Binding(role=POLICY.Role.Value(f"ROLE_{role.upper()}"), members=members.split())
            for role, members in roles.items()
        ]
        policy = POLICY(name=name, bindings=bindings, private=private)
        request = policies_pb2.SetPolicyRequest(policy=policy)
        await self.seen((await self.registry.policies.SetPolicy(request, **self.as_("root", "admin"))).revision)

    async def seen(self, revision: int) -> None:
        """
        Wait until decisions are those of a revision.
        """
        metadata = [*self.as_("root", "admin")["metadata"], ("x-min-revision", str(revision))]
        await self.registry.namespaces.ListNamespaces(namespaces_pb2.ListNamespacesRequest(), metadata=metadata)

    async def namespace(self, name: str, owner: str = "root") -> None:
        """
        Create a namespace.
        """
        request = namespaces_pb2.CreateNamespaceRequest(namespace_id=name)
        made = await self.registry.namespaces.CreateNamespace(request, **self.as_(owner))
        await self.seen(made.revision)


@asynccontextmanager
async def guarding(database: str, keys: Path) -> AsyncIterator[Guarded]:
    """
    Serve a registry with access control on, for as long as the block lasts.

    Args:
        database: its URL.
        keys: where to write the issuer's keys.
    """
    issuer = Issuer(keys)
    async with running(database, **settings(issuer)) as registry:
        found = Guarded(registry, issuer)
        async with asyncio.timeout(10):
            # Until the policies have been read.
            while not await _decides(found):
                await asyncio.sleep(0.01)
        yield found


async def _decides(guarded: Guarded) -> bool:
    request = policies_pb2.GetPolicyRequest(name="policy")
    try:
        await guarded.registry.policies.GetPolicy(request, **guarded.as_("ann"))
    except grpc.aio.AioRpcError:
        return False
    return True
