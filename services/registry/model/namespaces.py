"""
Namespaces: every model lives in exactly one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime

from services.chassis.checks import Checks
from services.chassis.errors import FailedPrecondition
from services.ledger.model.changes import Image
from services.registry.model.field_masks import merged
from services.registry.model.names import ModelName, NamespaceName

MUTABLE = ("display_name", "description", "owner", "labels", "quota")
DEFAULT = NamespaceName("default")
_MOST = {"display_name": 256, "description": 4096, "owner": 256}


@dataclass(frozen=True, slots=True)
class NamespaceDraft:
    """
    The fields of a namespace that a client sets.

    Args:
        max_models: how many models it may hold; 0 means no bound.
        max_asset_bytes: how many bytes its versions may have in all; 0 means no bound.
    """

    display_name: str = ""
    description: str = ""
    owner: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    max_models: int = 0
    max_asset_bytes: int = 0

    def check(self, checks: Checks, at: str, only: Collection[str] = MUTABLE) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the namespace in the request.
            only: the fields to check; an update checks those in its mask.
        """
        for name in sorted(set(only) & set(_MOST)):
            checks.text(f"{at}.{name}", getattr(self, name), _MOST[name])
        if "labels" in only:
            checks.labels(f"{at}.labels", self.labels)
        if "quota" in only:
            checks.count(f"{at}.quota.max_models", self.max_models)
            checks.count(f"{at}.quota.max_asset_bytes", self.max_asset_bytes)

    def updated(self, other: NamespaceDraft, paths: Collection[str]) -> NamespaceDraft:
        """
        This draft with the fields in *paths* taken from *other*.

        Raises:
            InvalidArgument: it has too many labels then.
        """
        names = [name for path in paths for name in (("max_models", "max_asset_bytes") if path == "quota" else (path,))]
        return merged(self, other, names)

    def image(self) -> Image:
        """
        The namespace as the audit log records it.
        """
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Namespace:
    """
    A stored namespace.
    """

    name: NamespaceName
    draft: NamespaceDraft
    create_time: datetime
    update_time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class NamespaceUpdate:
    """
    What UpdateNamespace asks for.

    Args:
        paths: the fields to take from *draft*.
        etag: of the namespace that the client read; empty when it does not care.
    """

    name: NamespaceName
    draft: NamespaceDraft
    paths: frozenset[str]
    etag: str


def check_deletable(name: NamespaceName, first: ModelName | None) -> None:
    """
    Check whether a namespace may be deleted.

    Args:
        first: some model in it, a deleted one included; None when it is empty.

    Raises:
        FailedPrecondition: it must not be deleted.
    """
    if name == DEFAULT:
        raise FailedPrecondition("NAMESPACE_IS_DEFAULT", f"{name} is always there", metadata={"resource": str(name)})
    if first is not None:
        raise FailedPrecondition(
            "NAMESPACE_NOT_EMPTY",
            f"{name} holds {first}: delete and purge its models first",
            metadata={"resource": str(name), "model": str(first)},
        )
