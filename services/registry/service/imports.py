"""
ImportService.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from modelyard.registry.v1 import evaluations_pb2
from modelyard.registry.v1 import imports_pb2 as pb
from modelyard.registry.v1.imports_pb2_grpc import ImportServiceServicer
from services.chassis.checks import Checks
from services.chassis.serving.context import Context
from services.ledger.service.calls import Mutations
from services.registry.model.evaluations import EvaluationDraft
from services.registry.model.imports import MOST_ITEMS, Batch, Imported, Item, check_items
from services.registry.model.names import ModelName, NamespaceName, VersionName
from services.registry.service.parsing import to_evaluation_draft, to_model_draft, to_version_draft
from services.registry.store.imports import ImportStore


class ImportService(ImportServiceServicer):
    """
    The servicer of modelyard.registry.v1.ImportService.
    """

    def __init__(self, imports: ImportStore, mutations: Mutations) -> None:
        self._imports = imports
        self._mutations = mutations

    async def ImportModels(
        self, request_iterator: AsyncIterator[pb.ImportModelsRequest], context: Context
    ) -> AsyncIterator[pb.ImportModelsResponse]:
        first: str | None = None
        async for request in request_iterator:
            # Thousands of names, paths and results are checked without blocking other calls.
            batch = await asyncio.to_thread(_batch, request, first)
            first = request.parent
            work = partial(self._imports.take, batch)
            yield await self._mutations.do(context, request, pb.ImportModelsResponse, work, _imported, touches=None)


def _batch(request: pb.ImportModelsRequest, first: str | None) -> Batch:
    checks = Checks()
    parent = checks.name(NamespaceName, "parent", request.parent)
    if first is not None and request.parent != first:
        checks.add("parent", "must be the same in every batch of a stream")
    checks.size("items", request.items, MOST_ITEMS)
    items = [_item(checks, f"items[{index}]", parent, each) for index, each in enumerate(request.items[:MOST_ITEMS])]
    check_items(checks, items)
    checks.raise_if_any()
    return Batch(parent, tuple(items), request.skip_existing)


def _item(checks: Checks, at: str, parent: NamespaceName, item: pb.ImportModelsRequest.Item) -> Item:
    name = ModelName(parent.namespace, item.model_id)
    return Item(
        name,
        to_model_draft(item.model),
        tuple(map(to_version_draft, item.versions)),
        tuple(_result(checks, f"{at}.evaluations[{i}]", name, each) for i, each in enumerate(item.evaluations)),
    )


def _result(checks: Checks, at: str, model: ModelName, evaluation: evaluations_pb2.Evaluation) -> EvaluationDraft:
    # Here a version is the bare number of one of the item's; what is none becomes 0, which the item's check names.
    text = evaluation.version
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    return to_evaluation_draft(checks, at, evaluation, VersionName(model.namespace, model.model, number))


def _imported(imported: Imported) -> pb.ImportModelsResponse:
    return pb.ImportModelsResponse(
        revision=imported.revision,
        created_models=imported.models,
        skipped_models=imported.skipped,
        created_versions=imported.versions,
        recorded_evaluations=imported.results,
    )
