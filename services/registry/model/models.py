"""
Models: their fields, without their versions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime

from services.chassis.checks import MOST_FREE_ENTRIES, Checks
from services.chassis.errors import FailedPrecondition
from services.ledger.model.changes import Image
from services.registry.model.aliases import Alias
from services.registry.model.field_masks import merged
from services.registry.model.names import DeploymentName, ModelName
from services.registry.model.versions import Version

MUTABLE = (
    "display_name",
    "description",
    "owner",
    "task",
    "framework",
    "license",
    "labels",
    "annotations",
    "parameter_count",
)
_MOST = {"display_name": 256, "description": 16384, "owner": 256, "task": 128, "framework": 128, "license": 128}


@dataclass(frozen=True, slots=True)
class ModelDraft:
    """
    The fields of a model that a client sets.

    Args:
        parameter_count: the number of trainable parameters; 0 means not known.
    """

    display_name: str = ""
    description: str = ""
    owner: str = ""
    task: str = ""
    framework: str = ""
    license: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    parameter_count: int = 0

    def check(self, checks: Checks, at: str, only: Collection[str] = MUTABLE) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the model in the request.
            only: the fields to check; an update checks those in its mask.
        """
        for name in sorted(set(only) & set(_MOST)):
            checks.text(f"{at}.{name}", getattr(self, name), _MOST[name])
        if "labels" in only:
            checks.free_labels(f"{at}.labels", self.labels)
        if "annotations" in only:
            checks.annotations(f"{at}.annotations", self.annotations)
        if "parameter_count" in only:
            checks.count(f"{at}.parameter_count", self.parameter_count)

    def updated(self, other: ModelDraft, paths: Collection[str]) -> ModelDraft:
        """
        This draft with the fields in *paths* taken from *other*.

        Raises:
            InvalidArgument: it has too many labels or annotations then.
        """
        return merged(self, other, paths, MOST_FREE_ENTRIES)

    def image(self) -> Image:
        """
        The model as the audit log records it.
        """
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelUpdate:
    """
    What UpdateModel asks for.

    Args:
        paths: the fields to take from *draft*.
        etag: of the model that the client read; empty when it does not care.
    """

    name: ModelName
    draft: ModelDraft
    paths: frozenset[str]
    etag: str


@dataclass(frozen=True, slots=True)
class Model:
    """
    A stored model.

    Args:
        latest_version: the number of the newest version, 0 while there is none.
        actor: who created it; empty when that is not known.
        activity_time: when it or something that belongs to it last changed.
        aliases, newest: in a full view: its aliases, and its newest version of each stage, without artifacts.
        revision: of the last write to the model itself; its versions and aliases have their own.
    """

    name: ModelName
    draft: ModelDraft
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None
    latest_version: int
    revision: int
    actor: str
    activity_time: datetime
    aliases: tuple[Alias, ...] = ()
    newest: tuple[Version, ...] = ()


def check_deleted(model: Model) -> None:
    """
    Raises:
        FailedPrecondition: *model* is not deleted.
    """
    if model.delete_time is None:
        raise FailedPrecondition(
            "MODEL_NOT_DELETED",
            f"{model.name} is not deleted: only a deleted model can be undeleted or purged",
            metadata={"resource": str(model.name)},
        )


def still_deployed(name: ModelName, deployment: DeploymentName) -> FailedPrecondition:
    """
    The error for deleting a model that a live deployment runs.
    """
    return FailedPrecondition(
        "MODEL_DEPLOYED",
        f"{deployment} runs {name}: retire it first",
        metadata={"resource": str(name), "deployment": str(deployment)},
    )
