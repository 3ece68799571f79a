"""
A real registry on the grpcio host in this process, on a real database, and the stubs that tests call it with.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
from google.rpc import error_details_pb2, status_pb2

from embedded.parts import free_port
from embedded.postgres import owner
from modelyard.registry.v1 import (
    alias_rules_pb2_grpc,
    aliases_pb2_grpc,
    audit_pb2_grpc,
    cards_pb2_grpc,
    changes_pb2_grpc,
    deployments_pb2_grpc,
    evaluations_pb2_grpc,
    imports_pb2_grpc,
    models_pb2_grpc,
    namespaces_pb2_grpc,
    policies_pb2_grpc,
    promotions_pb2_grpc,
    tokens_pb2_grpc,
    versions_pb2_grpc,
)
from services.chassis.hosts.grpcio import GrpcioHost
from services.chassis.observability.metrics import Metrics
from services.chassis.serving.server import Server
from services.chassis.settings import load
from services.registry.__main__ import compose
from services.registry.settings import RegistrySettings
from services.registry.tests.databases import Connection, Databases


class Registry:
    """
    A running registry.

    Args:
        channel: a channel to it.
        server: its servicers, as composed.
        database: the URL of its database.
        port: where it listens.
    """

    def __init__(self, channel: grpc.aio.Channel, server: Server, database: str, port: int) -> None:
        self.channel = channel
        self.server = server
        self.database = database
        self.port = port
        self.namespaces = namespaces_pb2_grpc.NamespaceServiceStub(channel)
        self.models = models_pb2_grpc.ModelServiceStub(channel)
        self.versions = versions_pb2_grpc.VersionServiceStub(channel)
        self.aliases = aliases_pb2_grpc.AliasServiceStub(channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)
        self.cards = cards_pb2_grpc.CardServiceStub(channel)
        self.deployments = deployments_pb2_grpc.DeploymentServiceStub(channel)
        self.evaluations = evaluations_pb2_grpc.EvaluationServiceStub(channel)
        self.imports = imports_pb2_grpc.ImportServiceStub(channel)
        self.changes = changes_pb2_grpc.ChangeServiceStub(channel)
        self.policies = policies_pb2_grpc.PolicyServiceStub(channel)
        self.alias_rules = alias_rules_pb2_grpc.AliasRuleServiceStub(channel)
        self.promotions = promotions_pb2_grpc.PromotionServiceStub(channel)
        self.api_tokens = tokens_pb2_grpc.ApiTokenServiceStub(channel)
        self._owners: list[Connection] = []

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[Connection]:
        """
        A connection of the database's owner, which the next one who asks gets again: opening one costs more than most
        statements.
        """
        connection = self._owners.pop() if self._owners else None
        if connection is None or connection.is_closed():
            connection = await asyncpg.connect(owner(self.database))
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        self._owners.append(connection)

    async def close(self) -> None:
        """
        Close the owner's connections.
        """
        while self._owners:
            self._owners.pop().terminate()

    async def idle(self) -> bool:
        """
        Whether all calls have ended; it waits for those that were cancelled.
        """
        for _ in range(50):
            if not any(each.started - sum(each.codes.values()) for each in self.server.metrics.calls._stats.values()):
                return True
            await asyncio.sleep(0.01)
        return False


@asynccontextmanager
async def running(database: str, cdn: str = "127.0.0.1:1", **environ: str) -> AsyncIterator[Registry]:
    """
    Serve the registry for as long as the block lasts.

    Args:
        database: its URL.
        cdn: host and port of the asset service.
        environ: more settings.
    """
    port = free_port()
    own = {
        "MODELYARD_DATABASE_URL": database,
        "MODELYARD_CDN_TARGET": cdn,
        "MODELYARD_LISTEN": f"127.0.0.1:{port}",
        "MODELYARD_DATABASE_STARTUP_SECONDS": "5",
        **environ,
    }
    async with AsyncExitStack() as stack:
        # Only while it is composed: what is in the environment reaches every process that a test starts.
        with _environ(own):
            settings = load(RegistrySettings)
            server = Server(settings, Metrics("services.registry", "grpcio"))
            await stack.enter_async_context(compose(server))
        await stack.enter_async_context(server.ready())
        host = GrpcioHost(server.handlers, settings, server.recorders)
        await host.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                registry = Registry(channel, server, database, port)
                try:
                    yield registry
                finally:
                    await registry.close()
        finally:
            server.drain()
            await host.drain(2)


class RecycledRegistry:
    """
    A registry that stays between tests while its database is restored: starting one costs more than most tests do, and
    connections that are kept have their statements prepared.

    Args:
        databases: hands out its database.
    """

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._resources = AsyncExitStack()
        self._registry: Registry | None = None

    async def __aenter__(self) -> RecycledRegistry:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stop()
        await self._databases.close()

    async def acquire(self) -> Registry:
        """
        The registry, on a database in its initial state.
        """
        if self._registry is None:
            self._registry = await self._resources.enter_async_context(running(await self._databases.acquire()))
        return self._registry

    async def release(self) -> None:
        """
        Restore the database, and replace the registry if a test left it busy or altered the database.
        """
        if not (self._registry and await self._registry.idle()):
            await self._stop()
        if not await self._databases.release():
            await self._stop()

    async def _stop(self) -> None:
        self._registry = None
        await self._resources.aclose()


@contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Failure:
    """
    How a call failed.
    """

    code: grpc.StatusCode
    reason: str
    fields: dict[str, str]
    metadata: dict[str, str]
    trailing: dict[str, Any]
    message: str


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """
    What an error says in its details.
    """
    pairs: Any = error.trailing_metadata() or ()
    trailing: dict[str, Any] = dict(pairs)
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    reason, fields, metadata = "", {}, {}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            fields = {each.field: each.description for each in bad.field_violations}
    return Failure(error.code(), reason, fields, metadata, trailing, error.details() or "")


class Failing:
    """
    Expects a call to fail, and holds the error.

    Example:
        with failing() as failed:
            await registry.models.GetModel(…)
        assert failed.reason == "MODEL_NOT_FOUND"
    """

    failure: Failure

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert error is not None, "the call succeeded"
        if not isinstance(error, grpc.aio.AioRpcError):
            return False
        self.failure = failure_of(error)
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.failure, name)


async def revision_of(call: Any) -> int:
    """
    The revision in the trailing metadata of an answered call.
    """
    await call
    return int(dict(await call.trailing_metadata())["x-revision"])
