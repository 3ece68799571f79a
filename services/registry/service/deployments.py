"""
DeploymentService.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from modelyard.registry.v1 import deployments_pb2 as pb
from modelyard.registry.v1.deployments_pb2_grpc import DeploymentServiceServicer
from services.chassis.checks import Checks
from services.chassis.context import Context
from services.ledger.model.changes import Heartbeat, Revision
from services.ledger.model.pages import Page, Query
from services.ledger.service.calls import Mutations, reflect
from services.ledger.store.database import min_revision
from services.ledger.store.feed import ChangeFeed
from services.registry.model.deployments import ENVIRONMENT, DeploymentFilter, DeploymentState, StatusUpdate
from services.registry.model.names import DEPLOYMENT_ID, DeploymentName, ModelName, NamespaceName
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
        parts = (request.parent, request.model, request.environment)
        page = Page.check(checks, Query("ListDeployments", parts, (str,)), request.page_size, request.page_token)
        checks.raise_if_any()
        wanted = DeploymentFilter(parent, model, request.environment)
        found = await reflect(context, self._deployments.list_page(wanted, page))
        return pb.ListDeploymentsResponse(deployments=map(from_deployment, found.items), next_page_token=found.token)

    async def UpdateDeploymentStatus(
        self, request: pb.UpdateDeploymentStatusRequest, context: Context
    ) -> pb.Deployment:
        checks = Checks()
        name = checks.name(DeploymentName, "name", request.name)
        state = DeploymentState.PENDING
        if request.state in _STATES:
            state = _STATES[request.state]
        else:
            checks.add("state", f"must be one of {', '.join(DeploymentState)}")
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
        told = found.value.revision
        # From the revision that was read on: what is changed between the read and the watch is not missed.
        async with aclosing(self._feed.watch(found.revision + 1, str(name), _HEARTBEAT)) as events:
            async for event in events:
                if isinstance(event, Heartbeat):
                    continue
                # More may have changed than this: what is read has all of it, and is told once.
                min_revision.set(event.number if isinstance(event, Revision) else event.head)
                deployment = (await self._deployments.get(name)).value
                if deployment.revision > told:
                    told = deployment.revision
                    yield pb.WatchDeploymentResponse(deployment=from_deployment(deployment))


_STATES = {getattr(pb.Deployment, f"STATE_{state}"): state for state in DeploymentState}
