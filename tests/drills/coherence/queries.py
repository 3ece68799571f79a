"""
The readers' queries: every cacheable RPC, for resources that exist, that come and go, and that never exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.cache.v1 import policy_pb2
from modelyard.cdn.v1 import assets_pb2, delivery_pb2
from modelyard.contracts import services
from modelyard.registry.v1 import (
    aliases_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)

PARENT = "namespaces/default"
OTHER, TEMPORARY = "namespaces/other", "namespaces/temporary"
MODELS = tuple(f"{PARENT}/models/m{number}" for number in range(4))
#: It is created, deleted, undeleted and purged repeatedly.
GHOST = f"{PARENT}/models/ghost"
ALIASES = ("production", "staging")


def deployment(number: int) -> str:
    """
    The name of a deployment.
    """
    return f"{PARENT}/deployments/d{number}"


@dataclass(frozen=True)
class Question:
    """
    A read.

    Args:
        origin: the service that answers it: registry or cdn.
        path: of the RPC.
        request: serialized.
        answer: the class of the response.
    """

    origin: str
    path: str
    request: bytes
    answer: type[Message]

    def __str__(self) -> str:
        return f"{self.path.rpartition('/')[2]} {self.request!r}"

    async def ask(self, channel: grpc.aio.Channel, timeout: float, **metadata: str) -> Answer:
        """
        Send the request.

        Args:
            timeout: in seconds.
            metadata: with underscores in place of hyphens.

        Raises:
            grpc.aio.AioRpcError: the call failed with another status than NOT_FOUND.
        """
        make: Any = channel.unary_unary(self.path, request_serializer=None, response_deserializer=None)
        sent = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        call = make(self.request, metadata=sent, timeout=timeout)
        try:
            said = b"+" + self.answer.FromString(await call).SerializeToString(deterministic=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            said = b"-" + (error.details() or "").encode()
        trailing = dict(await call.trailing_metadata())
        return Answer(said, int(trailing.get("x-revision", -1)), str(trailing.get("x-cache", "")))


@dataclass(frozen=True)
class Answer:
    """
    The response to a read.

    Args:
        text: "+" and the deterministically serialized message, or "-" and the message of NOT_FOUND.
        revision: `x-revision`; -1 without it.
        how: `x-cache`.
    """

    text: bytes
    revision: int
    how: str


def cached() -> dict[str, MethodDescriptor]:
    """
    Every cacheable RPC, according to the contracts, by its path.
    """
    return {
        f"/{service.full_name}/{method.name}": method
        for service in services()
        for method in service.methods
        if method.GetOptions().HasExtension(policy_pb2.policy)
    }


def questions(assets: list[str], texts: list[str], page: str) -> list[Question]:
    """
    All queries.

    Args:
        assets: names of safetensors files.
        texts: names of files under static/.
        page: the token of the second page of `first_page`.
    """
    methods = cached()
    by_request = {method.input_type.full_name: path for path, method in methods.items()}
    found = []
    for request in [*_registry(page), *_cdn(assets, texts)]:
        path = by_request[request.DESCRIPTOR.full_name]
        answer = message_factory.GetMessageClass(methods[path].output_type)
        found.append(Question(path.split(".")[1], path, request.SerializeToString(), answer))
    return found


def first_page() -> models_pb2.ListModelsRequest:
    """
    The list whose second page is among the queries.
    """
    return models_pb2.ListModelsRequest(parent=PARENT, page_size=2)


def _registry(page: str) -> Iterator[Message]:
    yield from _models(page)
    yield from _below_models()
    for number in range(3):
        yield deployments_pb2.GetDeploymentRequest(name=deployment(number))
    yield deployments_pb2.ListDeploymentsRequest(parent=PARENT)
    yield deployments_pb2.ListDeploymentsRequest(parent=PARENT, model=MODELS[1], environment="production")
    board = evaluations_pb2.QueryLeaderboardRequest
    yield board(parent=PARENT, dataset="imagenet", metric="top1")
    yield board(parent=PARENT, dataset="imagenet", metric="top1", ascending=True, filter="parameter_count > 5")
    yield evaluations_pb2.ListDatasetsRequest(parent=PARENT)
    yield evaluations_pb2.ListDatasetsRequest(parent=PARENT, metric="top1")
    yield evaluations_pb2.ListMetricsRequest(parent=PARENT, dataset="imagenet")


def _models(page: str) -> Iterator[Message]:
    for namespace in (PARENT, OTHER, TEMPORARY):
        yield namespaces_pb2.GetNamespaceRequest(name=namespace)
    yield namespaces_pb2.ListNamespacesRequest()
    for name in (*MODELS, GHOST, f"{PARENT}/models/x0", f"{PARENT}/models/x4", f"{PARENT}/models/nothing"):
        yield models_pb2.GetModelRequest(name=name)
    for names in (MODELS, MODELS[::-1][:2], [GHOST, *MODELS[:2]]):
        yield models_pb2.BatchGetModelsRequest(parent=PARENT, names=names)
    yield models_pb2.ListModelsRequest(parent=PARENT)
    yield models_pb2.ListModelsRequest(parent=PARENT, show_deleted=True)
    yield models_pb2.ListModelsRequest(parent=PARENT, page_size=2, page_token=page)
    yield models_pb2.ListModelsRequest(parent=TEMPORARY)
    search = models_pb2.SearchModelsRequest
    yield search(parent=PARENT, query="convnext")
    yield search(parent=PARENT, filter="evaluations.imagenet.top1 > 50")
    yield search(parent=PARENT, order_by="update_time desc", page_size=3)
    yield search(parent=PARENT, order_by="evaluations.imagenet.top1 desc", page_size=3)


def _below_models() -> Iterator[Message]:
    for name in (f"{MODELS[0]}/versions/1", f"{MODELS[1]}/versions/2", f"{GHOST}/versions/1"):
        yield versions_pb2.GetVersionRequest(name=name)
    for name in (MODELS[0], MODELS[1], GHOST):
        yield versions_pb2.ListVersionsRequest(parent=name)
        yield aliases_pb2.ListAliasesRequest(parent=name)
        yield evaluations_pb2.ListEvaluationsRequest(parent=name)
        yield versions_pb2.ResolveVersionRequest(parent=name, reference="latest")
        yield versions_pb2.GetOciManifestRequest(parent=name, reference="latest")
        yield versions_pb2.GetOciTagsRequest(parent=name)
        yield versions_pb2.GetOciBlobRequest(parent=name, digest=f"sha256:{'0' * 64}")
        yield versions_pb2.SearchVersionsRequest(parent=name)
    yield versions_pb2.SearchVersionsRequest(parent=PARENT, filter="state = READY", page_size=5)
    for alias in ALIASES:
        yield aliases_pb2.GetAliasRequest(name=f"{MODELS[0]}/aliases/{alias}")
        yield versions_pb2.ResolveVersionRequest(parent=MODELS[0], reference=alias)
    past = Timestamp()
    past.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))
    yield aliases_pb2.GetAliasRequest(name=f"{MODELS[0]}/aliases/production", read_time=past)
    yield aliases_pb2.ListAliasMovesRequest(parent=f"{MODELS[0]}/aliases/production")
    yield evaluations_pb2.ListEvaluationsRequest(parent=f"{MODELS[0]}/versions/1", dataset="imagenet")
    for number in (0, 1):
        yield cards_pb2.GetCardRequest(name=f"{MODELS[0]}/card", number=number)
    yield cards_pb2.GetCardRequest(name=f"{GHOST}/card")
    yield cards_pb2.ListCardNumbersRequest(parent=f"{MODELS[0]}/card")
    yield cards_pb2.ExportCardRequest(name=f"{MODELS[0]}/card")


def _cdn(assets: list[str], texts: list[str]) -> Iterator[Message]:
    for name in assets:
        yield assets_pb2.GetAssetRequest(name=name)
        yield assets_pb2.GetTensorIndexRequest(name=name)
    for name in texts:
        yield delivery_pb2.GetStaticFileRequest(name=name)
