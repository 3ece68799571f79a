"""
DeploymentService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.empty_pb2 import Empty

from modelyard.registry.v1 import deployments_pb2 as pb
from modelyard.registry.v1.deployments_pb2_grpc import DeploymentServiceServicer
from services.chassis.checks import Checks
from services.chassis.serving.context import Context
from services.ledger.model.changes import Heartbeat, Revision
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, nothing, reflect
from services.ledger.store.change_feed import ChangeFeed
from services.ledger.store.database import min_revision
from services.registry.model.deployments import (
    ENVIRONMENT,
    MUTABLE,
    DeploymentFilter,
    DeploymentState,
    DeploymentUpdate,
    StatusUpdate,
)
from services.registry.model.field_masks import check_mask, fields
from services.registry.model.names import DEPLOYMENT_ID, DeploymentName, ModelName, NamespaceName, VersionName
from services.registry.service.parsing import to_deployment_draft
from services.registry.service.rendering import from_deployment
from services.registry.store.deployments import DeploymentStore

_HEARTBEAT = 30.0


class DeploymentService(DeploymentServiceServicer):
    """
    The servicer of modelyard.registry.v1.DeploymentService.
    """

    def __init__(self, deployments: DeploymentStore, feed: ChangeFeed, mutations: Mutations) -> None:
        self._deployments = deployments
        self._feed = feed
        self._mutations = mutations

    async def CreateDeployment(self, request: pb.CreateDeploymentRequest, context: Context) -> pb.Deployment:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        name = DeploymentName(parent.namespace, checks.matches("deployment_id", request.deployment_id, DEPLOYMENT_ID))
        draft = to_deployment_draft(checks, "deployment", request.deployment)
        draft.check(checks, "deployment", parent)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            pb.Deployment,
            lambda tx: self._deployments.create(tx, name, draft),
            from_deployment,
            touches=[draft.version.parent, name],
        )

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.Deployment:
        name = DeploymentName.parse(request.name)
        return from_deployment((await reflect(context, self._deployments.get(name))).value)

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        checks = Checks()
        parent = checks.name(NamespaceName, "parent", request.parent)
        model = checks.name(ModelName, "model", request.model) if request.model else None
        if request.environment:
            checks.matches("environment", request.environment, ENVIRONMENT)
        version = checks.name(VersionName, "version", request.version) if request.version else None
        if version is not None and model is not None and version.parent != model:
            checks.add("version", "is not one of the model")
        states = frozenset(
            _state(checks, f"states[{index}]", each) for index, each in enumerate(request.states[: len(_STATES)])
        )
        if len(request.states) > len(_STATES):
            checks.add("states", f"must have at most {len(_STATES)} entries")
        parts = (request.parent, request.model, request.environment, request.version, ",".join(sorted(states)))
        page = Page.check(checks, Query("ListDeployments", parts, (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        wanted = DeploymentFilter(parent, model, request.environment, version, states)
        found = await reflect(context, self._deployments.list_page(wanted, page))
        return pb.ListDeploymentsResponse(deployments=map(from_deployment, found.items), next_page_token=found.token)

    async def UpdateDeployment(self, request: pb.UpdateDeploymentRequest, context: Context) -> pb.Deployment:
        checks = Checks()
        name = checks.name(DeploymentName, "deployment.name", request.deployment.name)
        paths = check_mask(checks, request.update_mask.paths, MUTABLE)
        # Fields outside of the mask may be missing.
        draft = to_deployment_draft(checks if "version" in paths else Checks(), "deployment", request.deployment)
        draft.check(checks, "deployment", NamespaceName(name.namespace), fields(paths))
        checks.request_id(request.request_id)
        checks.raise_if_any()
        update = DeploymentUpdate(name, draft, paths, request.deployment.etag)
        return await self._mutations.do(
            context,
            request,
            pb.Deployment,
            lambda tx: self._deployments.update(tx, update),
            from_deployment,
            touches=None,  # which models it locks is known only after reading
        )

    async def DeleteDeployment(self, request: pb.DeleteDeploymentRequest, context: Context) -> Empty:
        checks = Checks()
        name = checks.name(DeploymentName, "name", request.name)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        return await self._mutations.do(
            context,
            request,
            Empty,
            lambda tx: self._deployments.delete(tx, name, request.etag, force=request.force),
            nothing,
            touches=None,  # which models it locks is known only after reading
        )

    async def UpdateDeploymentStatus(
        self, request: pb.UpdateDeploymentStatusRequest, context: Context
    ) -> pb.Deployment:
        checks = Checks()
        name = checks.name(DeploymentName, "name", request.name)
        state = _state(checks, "state", request.state)
        message = checks.text("status_message", request.status_message, 1024)
        checks.request_id(request.request_id)
        checks.raise_if_any()
        # It locks the model, too, which the request does not name.
        model = await self._deployments.model_of(name)
        update = StatusUpdate(name, state, message, request.etag, model)
        return await self._mutations.do(
            context,
            request,
            pb.Deployment,
            lambda tx: self._deployments.update_status(tx, update),
            from_deployment,
            touches=[name] if model is None else [model, name],
        )

    async def WatchDeployment(
        self, request: pb.WatchDeploymentRequest, context: Context
    ) -> AsyncIterator[pb.WatchDeploymentResponse]:
        name = DeploymentName.parse(request.name)
        found = await reflect(context, self._deployments.get(name))
        yield pb.WatchDeploymentResponse(deployment=from_deployment(found.value))
        sent = found.value.revision
        # Watch from the revision of the read, so that changes between the read and the watch are not missed.
        async with aclosing(self._feed.watch(found.revision + 1, str(name), _HEARTBEAT)) as events:
            async for event in events:
                if isinstance(event, Heartbeat):
                    continue
                # The read may include later changes, too; these are sent only once.
                min_revision.set(event.number if isinstance(event, Revision) else event.head)
                deployment = (await self._deployments.get(name)).value
                if deployment.revision > sent:
                    sent = deployment.revision
                    yield pb.WatchDeploymentResponse(deployment=from_deployment(deployment))


def _state(checks: Checks, field: str, state: int) -> DeploymentState:
    if state not in _STATES:
        checks.add(field, f"must be one of {', '.join(DeploymentState)}")
    return _STATES.get(state, DeploymentState.PENDING)


_STATES: dict[int, DeploymentState] = {getattr(pb.Deployment, f"STATE_{state}"): state for state in DeploymentState}
