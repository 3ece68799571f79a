"""
ModelService.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from google.protobuf.empty_pb2 import Empty

from modelyard.registry.v1 import models_pb2 as pb
from modelyard.registry.v1.models_pb2_grpc import ModelServiceServicer
from services.chassis.checks import Checks
from services.chassis.deadlines import remaining
from services.chassis.serving.context import Context
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, nothing, reflect
from services.registry.model.field_masks import check_mask, fields
from services.registry.model.models import MUTABLE, ModelUpdate
from services.registry.model.names import MODEL_ID, ModelName, NamespaceName
from services.registry.model.search.filter_parser import parse_filter
from services.registry.model.search.searches import Search, parse_order, parse_words
from services.registry.service.parsing import to_model_draft
from services.registry.service.rendering import from_model
from services.registry.service.visibility import Visibility
from services.registry.store.models import ModelStore
from services.registry.store.purging import Purging
from services.registry.store.search.search import SearchStore


class ModelService(ModelServiceServicer):
    """
    The servicer of modelyard.registry.v1.ModelService.

    Args:
        purging: deletes the contents of large models before they are purged.
        keep: how long a deleted model is kept before it is purged.
    """

    def __init__(
        self,
        models: ModelStore,
        searches: SearchStore,
        purging: Purging,
        mutations: Mutations,
        visibility: Visibility,
        keep: timedelta,
    ) -> None:
        self._keep = keep
        self._visibility = visibility
        self._purging = purging
        self._models = models
        self._searches = searches
        self._mutations = mutations

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.Model:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        name = ModelName(parent.namespace, checks.matches("model_id", request.model_id, MODEL_ID))
        draft = to_model_draft(request.model)
        draft.check(checks, "model")
        checks.request_id(request.request_id)
        checks.raise_if_any()
        replace, with_rules = request.replace_deleted, False
        if replace:
            self._visibility.demand(parent.namespace, "models.delete")
            # They go with the model, and owners have set them.
            if with_rules := await self._models.has_rules(name):
                self._visibility.demand(parent.namespace, "models.purge")
            if not request.validate_only and (large := await self._purging.find(name)) is not None:
                await self._mutations.before(context, request, partial(self._purging.empty, large))
        return await self._mutations.do(
            context,
            request,
            pb.Model,
            lambda tx: self._models.create(tx, name, draft, replace=replace, with_rules=with_rules),
            from_model,
            touches=[name],
            dry=request.validate_only,
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        name = ModelName.parse(request.name)
        read = self._models.get_full(name) if request.view == pb.MODEL_VIEW_FULL else self._models.get(name)
        return from_model((await reflect(context, read)).value)

    async def BatchGetModels(self, request: pb.BatchGetModelsRequest, context: Context) -> pb.BatchGetModelsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        checks.size("names", request.names, 1000)
        names = [checks.name(ModelName, f"names[{i}]", name) for i, name in enumerate(request.names[:1000])]
        for index, name in enumerate(names):
            if name.namespace and name.parent != parent:
                checks.add(f"names[{index}]", "must be below the parent")
        checks.raise_if_any()
        found = await reflect(context, self._models.batch_get(parent, names))
        return pb.BatchGetModelsResponse(models=map(from_model, found.value))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        query = Query("ListModels", (request.parent, str(request.show_deleted)), (str,))
        page = Page.check(checks, query, request.page_size, request.page_token)
        checks.raise_if_any()
        found = await reflect(context, self._models.list_page(parent, page, deleted=request.show_deleted))
        return pb.ListModelsResponse(models=map(from_model, found.items), next_page_token=found.token)

    async def SearchModels(self, request: pb.SearchModelsRequest, context: Context) -> pb.SearchModelsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        words = parse_words(checks, "query", request.query)
        condition = parse_filter(checks, "filter", request.filter)
        order = parse_order(checks, "order_by", request.order_by)
        full = request.view == pb.MODEL_VIEW_FULL
        search = Search(parent, request.query.strip(), words, condition, order, full)
        parts = (request.parent, request.query, request.filter, request.order_by)
        query = Query("SearchModels", parts, search.key_types, optional=True)
        page = Page.check(checks, query, request.page_size, request.page_token, usual=20)
        checks.raise_if_any()
        found = await reflect(context, self._searches.search(search, page, remaining()))
        return pb.SearchModelsResponse(models=map(from_model, found.items), next_page_token=found.token)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.Model:
        checks = Checks()
        name = checks.name(ModelName, "model.name", request.model.name)
        paths = check_mask(checks, request.update_mask.paths, MUTABLE)
        draft = to_model_draft(request.model)
        draft.check(checks, "model", fields(paths))
        checks.request_id(request.request_id)
        checks.raise_if_any()
        update = ModelUpdate(name, draft, paths, request.model.etag)
        return await self._mutations.do(
            context,
            request,
            pb.Model,
            lambda tx: self._models.update(tx, update),
            from_model,
            touches=[name],
            dry=request.validate_only,
        )

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.Model:
        name = _name(request)
        return await self._mutations.do(
            context,
            request,
            pb.Model,
            lambda tx: self._models.delete(tx, name, request.etag, self._keep),
            from_model,
            touches=[name],
        )

    async def UndeleteModel(self, request: pb.UndeleteModelRequest, context: Context) -> pb.Model:
        name = _name(request)
        return await self._mutations.do(
            context, request, pb.Model, lambda tx: self._models.undelete(tx, name), from_model, touches=[name]
        )

    async def PurgeModel(self, request: pb.PurgeModelRequest, context: Context) -> Empty:
        name = _name(request)
        # Which model it is, is asked before whether this call was answered: a retry finds no other model of that name.
        if (large := await self._purging.find(name)) is not None:
            await self._mutations.before(context, request, partial(self._purging.empty, large))
        return await self._mutations.do(
            context, request, Empty, lambda tx: self._models.purge(tx, name), nothing, touches=[name]
        )


def _name(request: pb.DeleteModelRequest | pb.UndeleteModelRequest | pb.PurgeModelRequest) -> ModelName:
    checks = Checks()
    name = checks.name(ModelName, "name", request.name)
    checks.request_id(request.request_id)
    checks.raise_if_any()
    return name
