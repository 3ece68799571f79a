"""
Deployments: which version runs where, and its state.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum

from services.chassis.checks import Checks
from services.chassis.errors import FailedPrecondition
from services.ledger.model.changes import Image
from services.registry.model.field_masks import merged
from services.registry.model.names import DeploymentName, ModelName, NamespaceName, VersionName

ENVIRONMENT = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class DeploymentState(StrEnum):
    """
    The state of a deployment.
    """

    PENDING = "PENDING"
    ROLLING_OUT = "ROLLING_OUT"
    LIVE = "LIVE"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    ROLLED_BACK = "ROLLED_BACK"
    RETIRED = "RETIRED"


_S = DeploymentState

# From each state to those that may follow it; as in the contract.
TRANSITIONS: dict[DeploymentState, frozenset[DeploymentState]] = {
    _S.PENDING: frozenset({_S.ROLLING_OUT, _S.FAILED, _S.RETIRED}),
    _S.ROLLING_OUT: frozenset({_S.LIVE, _S.FAILED, _S.ROLLED_BACK, _S.RETIRED}),
    _S.LIVE: frozenset({_S.ROLLING_OUT, _S.DEGRADED, _S.ROLLED_BACK, _S.RETIRED}),
    _S.DEGRADED: frozenset({_S.LIVE, _S.ROLLING_OUT, _S.ROLLED_BACK, _S.FAILED, _S.RETIRED}),
    _S.FAILED: frozenset({_S.ROLLING_OUT, _S.RETIRED}),
    _S.ROLLED_BACK: frozenset({_S.ROLLING_OUT, _S.RETIRED}),
    _S.RETIRED: frozenset(),
}

# States that a deployment must not enter once its model is deleted, because the model will be purged.
_RUNNING = frozenset({_S.ROLLING_OUT, _S.LIVE, _S.DEGRADED})

# States in which a deployment may be deleted: nothing runs any more.
_ENDED = frozenset({_S.RETIRED, _S.FAILED})

MUTABLE = ("version", "environment", "status_message", "endpoint", "replicas", "labels")


@dataclass(frozen=True, slots=True)
class DeploymentDraft:
    """
    The fields of a deployment that a client sets.

    Args:
        version: what runs.
        environment: where, such as production.
        endpoint: where it answers.
        replicas: how many there are.
    """

    version: VersionName
    environment: str
    status_message: str = ""
    endpoint: str = ""
    replicas: int = 0
    labels: dict[str, str] = field(default_factory=dict)

    def check(self, checks: Checks, at: str, parent: NamespaceName, only: Collection[str] = MUTABLE) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the deployment in the request.
            only: the fields to check; an update checks those in its mask.
        """
        if "version" in only and self.version.namespace and self.version.namespace != parent.namespace:
            checks.add(f"{at}.version", "must be below the parent")
        if "environment" in only:
            checks.matches(f"{at}.environment", self.environment, ENVIRONMENT)
        if "status_message" in only:
            checks.text(f"{at}.status_message", self.status_message, 1024)
        if "endpoint" in only:
            checks.text(f"{at}.endpoint", self.endpoint, 2048)
        if "replicas" in only:
            checks.count(f"{at}.replicas", self.replicas)
        if "labels" in only:
            checks.labels(f"{at}.labels", self.labels)

    def updated(self, other: DeploymentDraft, paths: Collection[str]) -> DeploymentDraft:
        """
        This draft with the fields in *paths* taken from *other*.

        Raises:
            InvalidArgument: it would have too many labels.
        """
        return merged(self, other, paths)

    def image(self) -> Image:
        """
        The deployment as the audit log records it.
        """
        return {**asdict(self), "version": str(self.version)}


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    A stored deployment.
    """

    name: DeploymentName
    draft: DeploymentDraft
    state: DeploymentState
    create_time: datetime
    update_time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class DeploymentUpdate:
    """
    What UpdateDeployment asks for.

    Args:
        paths: the fields to take from *draft*.
        etag: of the deployment that the client read; empty when it does not care.
    """

    name: DeploymentName
    draft: DeploymentDraft
    paths: frozenset[str]
    etag: str


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """
    What UpdateDeploymentStatus asks for.

    Args:
        etag: of the deployment that the client read; empty when it does not care.
        model: that the deployment ran when the call began; None where there was no such deployment.
    """

    name: DeploymentName
    state: DeploymentState
    message: str
    etag: str
    model: ModelName | None


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """
    Which deployments of a namespace to list.

    Args:
        model: None means any.
        environment: empty means any.
        version: None means any.
        states: none means any.
    """

    parent: NamespaceName
    model: ModelName | None
    environment: str
    version: VersionName | None = None
    states: frozenset[DeploymentState] = frozenset()


def state_after(before: Deployment, draft: DeploymentDraft) -> DeploymentState:
    """
    The state of a deployment that is now to be *draft*: another version begins a rollout.

    Raises:
        FailedPrecondition: no rollout may begin.
    """
    if draft.version == before.draft.version or before.state is _S.PENDING:
        return before.state
    check_transition(before, _S.ROLLING_OUT, deleted=False)
    return _S.ROLLING_OUT


def check_ended(deployment: Deployment) -> None:
    """
    Raises:
        FailedPrecondition: it may still run.
    """
    if deployment.state not in _ENDED:
        raise FailedPrecondition(
            "DEPLOYMENT_ACTIVE",
            f"{deployment.name} is {deployment.state}: retire it first, or delete it with force",
            metadata={"resource": str(deployment.name), "state": deployment.state},
        )


def check_transition(
    before: Deployment, state: DeploymentState, *, deleted: bool, version_deleted: bool = False
) -> None:
    """
    Check whether a deployment may move to *state*. Remaining in the same state is always allowed.

    Args:
        deleted: its model is.
        version_deleted: the version that it runs is.

    Raises:
        FailedPrecondition: it may not.
    """
    if state is not before.state and state not in TRANSITIONS[before.state]:
        legal = ", ".join(sorted(TRANSITIONS[before.state])) or "nothing"
        raise FailedPrecondition(
            "ILLEGAL_TRANSITION",
            f"{before.name} is {before.state} and cannot become {state}: from there it goes to {legal}",
            metadata={"resource": str(before.name), "from": before.state, "to": state},
        )
    if version_deleted and state in _RUNNING and state is not before.state:
        raise FailedPrecondition(
            "VERSION_DELETED",
            f"{before.name} runs {before.draft.version}, which was deleted: deploy another version",
            metadata={"resource": str(before.name), "version": str(before.draft.version)},
        )
    if deleted and state in _RUNNING and state is not before.state:
        raise FailedPrecondition(
            "MODEL_DELETED",
            f"{before.name} runs a model that is deleted: undelete {before.draft.version.parent} first",
            metadata={"resource": str(before.name), "model": str(before.draft.version.parent)},
        )
