"""
Every write that changes a cacheable answer touches one of the answer's tags.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from modelyard.registry.v1 import (
    aliases_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from services.registry.tests.calls import (
    DEFAULT,
    add_version,
    create,
    deploy,
    import_items,
    move,
    record,
    result,
    revisions,
    sql,
    status,
    update,
    write_card,
)
from services.registry.tests.contract import call, methods, tags, touches
from services.registry.tests.server import Registry

M, N, NEW = (f"{DEFAULT}/models/{model}" for model in ("m", "n", "new"))
SPACE = "namespaces/space"


async def _namespace(registry: Registry) -> None:
    await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="space"))


async def _import(registry: Registry) -> None:
    evaluation = evaluations_pb2.Evaluation(version="1", dataset="imagenet", metric="top1", value=99)
    item = imports_pb2.ImportModelsRequest.Item
    versions = [versions_pb2.Version()]
    await import_items(registry, [item(model_id="imported", versions=versions, evaluations=[evaluation])])


# The writes, in an order in which each can be done; NEW and SPACE do not exist before their turn.
WRITES: list[Callable[[Registry], Awaitable[Any]]] = [
    _namespace,
    lambda registry: create(registry, "new", models_pb2.Model(description="convnext")),
    lambda registry: update(registry, "m", models_pb2.Model(description="convnext", parameter_count=7), ["*"]),
    lambda registry: add_version(registry, "m", ready=False),
    lambda registry: registry.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=f"{M}/versions/2")),
    lambda registry: record(registry, result("m", 2, "imagenet", "top1", 90)),
    lambda registry: record(registry, result("m", 1, "imagenet", "top1", 95), result("n", 1, "a", "b", 1)),
    lambda registry: registry.evaluations.UpdateMetric(
        evaluations_pb2.UpdateMetricRequest(
            parent=DEFAULT,
            metric=evaluations_pb2.Metric(metric="top1", direction=evaluations_pb2.Metric.DIRECTION_LOWER),
        )
    ),
    lambda registry: registry.evaluations.DeleteEvaluations(
        evaluations_pb2.DeleteEvaluationsRequest(
            parent=DEFAULT,
            selection=evaluations_pb2.DeleteEvaluationsRequest.Selection(version=f"{N}/versions/1"),
        )
    ),
    lambda registry: move(registry, "m", ("production", 1), ("staging", 2)),
    lambda registry: move(registry, "m", ("production", 2)),
    lambda registry: move(registry, "m", ("production", 0)),
    lambda registry: add_version(registry, "new", ready=False),
    lambda registry: registry.models.CreateModel(models_pb2.CreateModelRequest(parent=SPACE, model_id="x")),
    _import,
    lambda registry: write_card(registry, "m", markdown="# m"),
    lambda registry: write_card(registry, "m", license="MIT"),
    lambda registry: deploy(registry, "d", "m"),
    lambda registry: registry.deployments.UpdateDeployment(
        deployments_pb2.UpdateDeploymentRequest(
            deployment=deployments_pb2.Deployment(name=f"{DEFAULT}/deployments/d", replicas=2),
            update_mask=FieldMask(paths=["replicas"]),
        )
    ),
    lambda registry: status(registry, "d", "FAILED"),
    lambda registry: registry.deployments.DeleteDeployment(
        deployments_pb2.DeleteDeploymentRequest(name=f"{DEFAULT}/deployments/d")
    ),
    lambda registry: registry.namespaces.UpdateNamespace(
        namespaces_pb2.UpdateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=SPACE, owner="o"), update_mask=FieldMask(paths=["owner"])
        )
    ),
    lambda registry: registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=f"{NEW}/versions/1")),
    lambda registry: registry.versions.UpdateVersion(
        versions_pb2.UpdateVersionRequest(
            version=versions_pb2.Version(name=f"{M}/versions/1", labels={"a": "b"}),
            update_mask=FieldMask(paths=["labels"]),
        )
    ),
    lambda registry: registry.aliases.RollbackAlias(aliases_pb2.RollbackAliasRequest(name=f"{M}/aliases/production")),
    lambda registry: registry.versions.CopyVersion(
        versions_pb2.CopyVersionRequest(parent=NEW, source=f"{M}/versions/1")
    ),
    lambda registry: registry.versions.DeleteVersion(
        versions_pb2.DeleteVersionRequest(name=f"{M}/versions/2", force=True)
    ),
    lambda registry: registry.versions.DeleteVersion(versions_pb2.DeleteVersionRequest(name=f"{NEW}/versions/1")),
    lambda registry: registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=M)),
    lambda registry: registry.models.UndeleteModel(models_pb2.UndeleteModelRequest(name=M)),
    lambda registry: registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=M)),
    lambda registry: registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=M)),
    lambda registry: registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=N)),
    lambda registry: create(registry, "n", replace_deleted=True),
    lambda registry: registry.models.DeleteModel(models_pb2.DeleteModelRequest(name=f"{SPACE}/models/x")),
    lambda registry: registry.models.PurgeModel(models_pb2.PurgeModelRequest(name=f"{SPACE}/models/x")),
    lambda registry: registry.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(name=SPACE)),
]


def reads() -> dict[str, list[Message]]:
    """
    Requests for every cacheable method: of what exists, of what will exist, and of what is next to it.
    """
    board = evaluations_pb2.QueryLeaderboardRequest
    return {
        "GetNamespace": [namespaces_pb2.GetNamespaceRequest(name=name) for name in (DEFAULT, SPACE)],
        "ListNamespaces": [namespaces_pb2.ListNamespacesRequest()],
        "GetModel": [
            models_pb2.GetModelRequest(name=name, view=view)
            for name in (M, N, NEW, f"{DEFAULT}/models/imported")
            for view in (models_pb2.MODEL_VIEW_BASIC, models_pb2.MODEL_VIEW_FULL)
        ],
        "BatchGetModels": [
            models_pb2.BatchGetModelsRequest(parent=DEFAULT, names=names) for names in ([M, N], [M, NEW])
        ],
        "ListModels": [models_pb2.ListModelsRequest(parent=parent) for parent in (DEFAULT, SPACE)],
        "SearchModels": [
            models_pb2.SearchModelsRequest(parent=DEFAULT, query="convnext"),
            models_pb2.SearchModelsRequest(parent=DEFAULT, filter="evaluations.imagenet.top1 > 85"),
            models_pb2.SearchModelsRequest(parent=SPACE, order_by="update_time desc"),
            models_pb2.SearchModelsRequest(parent=DEFAULT, view=models_pb2.MODEL_VIEW_FULL),
        ],
        "GetVersion": [
            versions_pb2.GetVersionRequest(name=f"{model}/versions/{n}") for model in (M, NEW) for n in (1, 2)
        ],
        "ResolveVersion": [
            versions_pb2.ResolveVersionRequest(parent=parent, reference=reference)
            for parent in (M, N, NEW)
            for reference in ("1", "production", "staging", "latest")
        ],
        "ListVersions": [
            versions_pb2.ListVersionsRequest(parent=parent, show_deleted=deleted)
            for parent in (M, N, NEW)
            for deleted in (False, True)
        ],
        "SearchVersions": [
            versions_pb2.SearchVersionsRequest(parent=parent, filter=condition)
            for parent in (DEFAULT, M, N, NEW, SPACE)
            for condition in ("", "labels.a = b AND state = READY")
        ],
        "GetAlias": [aliases_pb2.GetAliasRequest(name=f"{M}/aliases/{alias}") for alias in ("production", "staging")],
        "ListAliases": [
            aliases_pb2.ListAliasesRequest(parent=parent, version=version)
            for parent, version in ((M, ""), (N, ""), (NEW, ""), (M, f"{M}/versions/1"))
        ],
        "ListAliasMoves": [aliases_pb2.ListAliasMovesRequest(parent=f"{M}/aliases/production")],
        "ListEvaluations": [
            evaluations_pb2.ListEvaluationsRequest(parent=parent) for parent in (M, f"{M}/versions/2", N, NEW)
        ],
        "GetCard": [cards_pb2.GetCardRequest(name=f"{M}/card", number=number) for number in (0, 1, 2)],
        "ListCardNumbers": [cards_pb2.ListCardNumbersRequest(parent=f"{M}/card")],
        "ExportCard": [cards_pb2.ExportCardRequest(name=f"{M}/card")],
        "GetDeployment": [deployments_pb2.GetDeploymentRequest(name=f"{DEFAULT}/deployments/d")],
        "ListDeployments": [
            deployments_pb2.ListDeploymentsRequest(parent=DEFAULT),
            deployments_pb2.ListDeploymentsRequest(parent=DEFAULT, model=M, environment="production"),
            deployments_pb2.ListDeploymentsRequest(
                parent=DEFAULT, version=f"{M}/versions/1", states=[deployments_pb2.Deployment.STATE_PENDING]
            ),
        ],
        "QueryLeaderboard": [
            board(parent=DEFAULT, dataset="imagenet", metric="top1"),
            board(parent=DEFAULT, dataset="imagenet", metric="top1", filter="parameter_count = 7"),
            board(parent=SPACE, dataset="imagenet", metric="top1"),
        ],
        "ListDatasets": [evaluations_pb2.ListDatasetsRequest(parent=parent) for parent in (DEFAULT, SPACE)],
        "ListMetrics": [
            evaluations_pb2.ListMetricsRequest(parent=DEFAULT),
            evaluations_pb2.ListMetricsRequest(parent=DEFAULT, dataset="imagenet"),
            evaluations_pb2.ListMetricsRequest(parent=SPACE),
        ],
    }


async def test_changed_answers_are_touched(registry: Registry) -> None:
    """
    For every cacheable method and every write: when the answer is another one afterwards (NOT_FOUND is an answer, too),
    then a change of that write touches one of its tags. And each method's answer is changed by some write.
    """
    cacheable = {method.name: method for method in methods() if tags(method, _first(method.name))}
    assert set(cacheable) == set(reads()), "a cacheable method without requests here"
    await create(registry, "m")
    await create(registry, "n")
    await add_version(registry, "m")
    await add_version(registry, "n")

    async def answers() -> dict[tuple[str, int], bytes]:
        async def answer(key: tuple[str, int], request: Message) -> tuple[tuple[str, int], bytes]:
            # A few at a time: each connection of the pool has to prepare every statement.
            async with turns:
                return key, await _answer(registry, cacheable[key[0]], request)

        return dict(await asyncio.gather(*(answer(key, request) for key, request in asked)))

    asked = [((name, n), request) for name, requests in reads().items() for n, request in enumerate(requests)]
    turns = asyncio.Semaphore(3)
    changed: defaultdict[str, int] = defaultdict(int)
    before = await answers()
    for write in WRITES:
        start = await sql(registry, "SELECT value FROM revision")
        await write(registry)
        head = await sql(registry, "SELECT value FROM revision")
        changes = [change for told in await revisions(registry, start + 1, head) for change in told.changes]
        after = await answers()
        for (name, index), answer in after.items():
            if answer == before[name, index]:
                continue
            changed[name] += 1
            own = tags(cacheable[name], reads()[name][index])
            assert any(touches(change, tag) for change in changes for tag in own), (name, own, changes)
        before = after
    assert set(changed) == set(cacheable)


def _first(name: str) -> Message:
    requests = reads().get(name)
    return requests[0] if requests else namespaces_pb2.GetNamespaceRequest()


async def _answer(registry: Registry, method: Any, request: Message) -> bytes:
    try:
        answer: bytes = (await call(registry, method, request)).SerializeToString(deterministic=True)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return b"NOT_FOUND"
    return answer
