"""
Writes of every kind, one after the other or several at once, each followed by an observation of the origin.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import (
    aliases_pb2,
    aliases_pb2_grpc,
    cards_pb2,
    cards_pb2_grpc,
    deployments_pb2,
    deployments_pb2_grpc,
    evaluations_pb2,
    evaluations_pb2_grpc,
    imports_pb2,
    imports_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    versions_pb2,
    versions_pb2_grpc,
)
from tests.drills.coherence.history import History
from tests.drills.coherence.queries import ALIASES, GHOST, MODELS, OTHER, PARENT, TEMPORARY, deployment

_State = deployments_pb2.Deployment.State
_WORDS = ("convnext", "vit", "resnet")


class Origin:
    """
    An origin that is written to and read directly, and its history.

    Args:
        channel: to the origin.
        history: of its responses.
        dice: chooses the writes.

    Attributes:
        done: how often each kind of write was made.
    """

    def __init__(self, channel: grpc.aio.Channel, history: History, dice: random.Random) -> None:
        self.channel, self.history, self.dice = channel, history, dice
        self.done: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self._left: list[str] = []

    async def do(self, call: Any) -> Any:
        """
        Await a write, and remember its revision.
        """
        answer = await call
        self._remember(await call.trailing_metadata())
        return answer

    async def last(self, call: Any) -> Any:
        """
        Read all responses of a streaming write, and return the last one.
        """
        answer = None
        async for each in call:
            answer = each
        self._remember(await call.trailing_metadata())
        return answer

    async def run(self, kinds: dict[str, Callable[[Any], Awaitable[None]]], pause: float) -> None:
        """
        Write until cancelled: mostly one write at a time, sometimes three at once.

        Args:
            kinds: the writes, by name.
            pause: the longest time between them, in seconds.
        """
        await self.history.observe(self.channel, time.monotonic())
        while True:
            chosen = [self._next(kinds) for _ in range(self.dice.choice((1, 1, 1, 3)))]
            await asyncio.gather(*(kinds[kind](self) for kind in dict.fromkeys(chosen)))
            self.done.update(dict.fromkeys(chosen, 1))
            await self.history.observe(self.channel, time.monotonic())
            await asyncio.sleep(self.dice.uniform(0, pause))

    def _next(self, kinds: dict[str, Callable[[Any], Awaitable[None]]]) -> str:
        if not self._left:
            self._left = self.dice.sample(sorted(kinds), len(kinds))
        return self._left.pop()

    def _remember(self, trailing: Any) -> None:
        revision = int(dict(trailing)["x-revision"])
        self.history.known = max(self.history.known, revision)


class Registry(Origin):
    """
    The registry.
    """

    def __init__(self, channel: grpc.aio.Channel, history: History, dice: random.Random) -> None:
        super().__init__(channel, history, dice)
        # The stubs' types are of the blocking client.
        self.namespaces: Any = namespaces_pb2_grpc.NamespaceServiceStub(channel)
        self.models: Any = models_pb2_grpc.ModelServiceStub(channel)
        self.versions: Any = versions_pb2_grpc.VersionServiceStub(channel)
        self.aliases: Any = aliases_pb2_grpc.AliasServiceStub(channel)
        self.cards: Any = cards_pb2_grpc.CardServiceStub(channel)
        self.evaluations: Any = evaluations_pb2_grpc.EvaluationServiceStub(channel)
        self.deployments: Any = deployments_pb2_grpc.DeploymentServiceStub(channel)
        self.imports: Any = imports_pb2_grpc.ImportServiceStub(channel)
        self._ghost: list[str] = []
        self._has_temporary = False
        self._deployments = 0

    async def prepare(self) -> None:
        """
        Create what exists before the first read.
        """
        await self.do(
            self.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=OTHER.split("/")[1]))
        )
        for name in MODELS:
            model_id = name.rpartition("/")[2]
            await self.do(self.models.CreateModel(models_pb2.CreateModelRequest(parent=PARENT, model_id=model_id)))
            for _ in range(2):
                await self._add_version(name)
        await self.move_aliases()
        await self.deploy()

    async def update_model(self) -> None:
        content = models_pb2.Model(
            name=self.dice.choice(MODELS),
            description=self.dice.choice(_WORDS),
            parameter_count=self.dice.randrange(10),
            labels={f"l{self.dice.randrange(3)}": str(next(self.numbers))},
        )
        mask = FieldMask(paths=["description", "parameter_count", "labels"])
        await self.do(self.models.UpdateModel(models_pb2.UpdateModelRequest(model=content, update_mask=mask)))

    async def ghost(self) -> None:
        """
        The next step of a model that is created, deleted, undeleted and purged.
        """
        if not self._ghost:
            self._ghost = ["purge", "delete", "undelete", "delete", "create"]
        step = self._ghost.pop()
        self.done[f"{step} model"] += 1
        match step:
            case "create":
                content = models_pb2.Model(description="convnext")
                request = models_pb2.CreateModelRequest(parent=PARENT, model_id="ghost", model=content)
                await self.do(self.models.CreateModel(request))
                await self._add_version(GHOST)
                await self._write_card(GHOST)
            case "delete":
                await self.do(self.models.DeleteModel(models_pb2.DeleteModelRequest(name=GHOST)))
            case "undelete":
                await self.do(self.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=GHOST)))
            case _:
                await self.do(self.models.PurgeModel(models_pb2.PurgeModelRequest(name=GHOST)))

    async def import_models(self) -> None:
        number = next(self.numbers)
        result = evaluations_pb2.Evaluation(version="1", dataset="imagenet", metric="top1", value=number % 100)
        items = [
            imports_pb2.ImportModelsRequest.Item(
                model_id=f"x{self.done['import models'] * 4 + each}",
                model=models_pb2.Model(description=self.dice.choice(_WORDS)),
                versions=[versions_pb2.Version()],
                evaluations=[result],
            )
            for each in range(4)
        ]

        async def batches() -> AsyncIterator[imports_pb2.ImportModelsRequest]:
            for some in (items[:3], items[3:]):
                yield imports_pb2.ImportModelsRequest(parent=PARENT, items=some)

        await self.last(self.imports.ImportModels(batches()))

    async def move_aliases(self) -> None:
        moves = [
            aliases_pb2.MoveAliasesRequest.Move(
                alias_id=alias, version=self.dice.choice([f"{MODELS[0]}/versions/1", f"{MODELS[0]}/versions/2", ""])
            )
            for alias in ALIASES
        ]
        await self.do(self.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=MODELS[0], moves=moves)))

    async def roll_back(self) -> None:
        try:
            await self.do(
                self.aliases.RollbackAlias(aliases_pb2.RollbackAliasRequest(name=f"{MODELS[0]}/aliases/production"))
            )
        except grpc.aio.AioRpcError as error:
            # It has not moved yet, or does not exist.
            if error.code() not in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}:
                raise

    async def record(self) -> None:
        results = [
            evaluations_pb2.Evaluation(
                version=f"{name}/versions/{number}", dataset="imagenet", metric="top1", value=self.dice.uniform(0, 100)
            )
            for name in MODELS[:3]
            for number in (1, 2)
        ]
        request = evaluations_pb2.RecordEvaluationsRequest(parent=PARENT, evaluations=results)
        await self.do(self.evaluations.RecordEvaluations(request))

    async def update_card(self) -> None:
        await self._write_card(MODELS[0])

    async def import_card(self) -> None:
        content = f"---\nlicense: mit\n---\n# {next(self.numbers)}\n"
        await self.do(self.cards.ImportCard(cards_pb2.ImportCardRequest(name=f"{MODELS[0]}/card", content=content)))

    async def add_version(self) -> None:
        await self._add_version(MODELS[1])

    async def update_version(self) -> None:
        content = versions_pb2.Version(name=f"{MODELS[0]}/versions/1", labels={"n": str(next(self.numbers))})
        mask = FieldMask(paths=["labels"])
        await self.do(self.versions.UpdateVersion(versions_pb2.UpdateVersionRequest(version=content, update_mask=mask)))

    async def fail_version(self) -> None:
        made = await self.do(
            self.versions.CreateVersion(
                versions_pb2.CreateVersionRequest(parent=MODELS[1], version=versions_pb2.Version())
            )
        )
        await self.do(self.versions.FailVersion(versions_pb2.FailVersionRequest(name=made.name, failure="no luck")))

    async def deploy(self) -> None:
        content = deployments_pb2.Deployment(version=f"{MODELS[1]}/versions/1", environment="production")
        request = deployments_pb2.CreateDeploymentRequest(
            parent=PARENT, deployment_id=f"d{self._deployments}", deployment=content
        )
        await self.do(self.deployments.CreateDeployment(request))
        await self._to(deployment(self._deployments), _State.STATE_ROLLING_OUT, _State.STATE_LIVE)
        self._deployments += 1

    async def report(self) -> None:
        name = deployment(self.dice.randrange(self._deployments))
        await self._to(name, _State.STATE_DEGRADED, _State.STATE_LIVE)

    async def update_namespace(self) -> None:
        content = namespaces_pb2.Namespace(name=OTHER, owner=str(next(self.numbers)))
        request = namespaces_pb2.UpdateNamespaceRequest(namespace=content, update_mask=FieldMask(paths=["owner"]))
        await self.do(self.namespaces.UpdateNamespace(request))

    async def create_or_delete_namespace(self) -> None:
        if self._has_temporary:
            await self.do(self.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(name=TEMPORARY)))
        else:
            request = namespaces_pb2.CreateNamespaceRequest(namespace_id=TEMPORARY.split("/")[1])
            await self.do(self.namespaces.CreateNamespace(request))
        self._has_temporary = not self._has_temporary

    async def _to(self, name: str, *states: Any) -> None:
        for state in states:
            await self.do(
                self.deployments.UpdateDeploymentStatus(
                    deployments_pb2.UpdateDeploymentStatusRequest(name=name, state=state)
                )
            )

    async def _add_version(self, name: str) -> None:
        made = await self.do(
            self.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=name, version=versions_pb2.Version()))
        )
        await self.do(self.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name)))

    async def _write_card(self, name: str) -> None:
        card = cards_pb2.Card(name=f"{name}/card", markdown=f"# {next(self.numbers)}")
        await self.do(
            self.cards.UpdateCard(cards_pb2.UpdateCardRequest(card=card, update_mask=FieldMask(paths=["markdown"])))
        )


WRITES: dict[str, Callable[[Registry], Awaitable[None]]] = {
    "update model": Registry.update_model,
    "ghost": Registry.ghost,
    "import models": Registry.import_models,
    "move aliases": Registry.move_aliases,
    "roll back": Registry.roll_back,
    "record": Registry.record,
    "update card": Registry.update_card,
    "import card": Registry.import_card,
    "add version": Registry.add_version,
    "update version": Registry.update_version,
    "fail version": Registry.fail_version,
    "deploy": Registry.deploy,
    "report": Registry.report,
    "update namespace": Registry.update_namespace,
    "create or delete namespace": Registry.create_or_delete_namespace,
}
