"""
Versions: numbered sets of a model's artifacts, with their lineage.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum

from modelyard.paths import clashes, fault, shown
from services.chassis.checks import MOST_FREE_ENTRIES, Checks
from services.chassis.errors import FailedPrecondition
from services.ledger.model.calls import Missing
from services.ledger.model.changes import Image
from services.registry.model.field_masks import fields, merged
from services.registry.model.names import DeploymentName, ModelName, NamespaceName, VersionName

ALWAYS_MUTABLE = ("description", "stage", "labels", "annotations", "run_link")
MUTABLE = (*ALWAYS_MUTABLE, "artifacts", "lineage")
FIELDS = (*MUTABLE, "source", "source_model_id")
_MOST = {"description": 4096, "stage": 64, "run_link": 4096, "source": 4096, "source_model_id": 256}

MOST_ARTIFACTS = 10_000
SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class VersionState(StrEnum):
    """
    The state of a version.
    """

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Artifact:
    """
    One file of a version.

    Args:
        path: relative, with forward slashes.
        sha256: of its bytes.
        size_bytes: how many there are.
        media_type: empty when it is unknown.
    """

    path: str
    sha256: str
    size_bytes: int
    media_type: str = ""

    def check(self, checks: Checks, at: str) -> None:
        """
        Note what is malformed; *at* is the path of the artifact in the request.
        """
        if reason := fault(self.path):
            checks.add(f"{at}.path", reason)
        checks.matches(f"{at}.sha256", self.sha256, SHA256)
        checks.count(f"{at}.size_bytes", self.size_bytes)
        # As long as an asset's may be.
        checks.text(f"{at}.media_type", self.media_type, 255)


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    The lineage of a version.

    Args:
        parent_version: the full name of the version it was trained from; empty when there is none.
        training_data: names or addresses of data sets.
        run: the run that made it.
        git_commit: in hexadecimal.
    """

    parent_version: str = ""
    training_data: tuple[str, ...] = ()
    run: str = ""
    git_commit: str = ""

    def check(self, checks: Checks, at: str) -> None:
        """
        Note what is malformed; *at* is the path of the lineage in the request.
        """
        if self.parent_version:
            checks.name(VersionName, f"{at}.parent_version", self.parent_version)
        checks.size(f"{at}.training_data", self.training_data, 64, least=0)
        for index, place in enumerate(self.training_data[:64]):
            checks.text(f"{at}.training_data[{index}]", place, 1024)
        checks.text(f"{at}.run", self.run, 1024)
        if self.git_commit:
            checks.matches(f"{at}.git_commit", self.git_commit, _COMMIT)


@dataclass(frozen=True, slots=True)
class VersionDraft:
    """
    The fields of a version that a client sets.

    Args:
        source: where it came from, for information.
        run_link: the address of the page of its run.
        source_model_id: its id in the tool that logged it.
    """

    description: str = ""
    artifacts: tuple[Artifact, ...] = ()
    lineage: Lineage = field(default_factory=Lineage)
    stage: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    source: str = ""
    run_link: str = ""
    source_model_id: str = ""

    def check(self, checks: Checks, at: str, only: Collection[str] = FIELDS) -> None:
        """
        Report invalid fields.

        Args:
            at: the path of the version in the request.
            only: the fields to check; an update checks those in its mask.
        """
        for name in sorted(set(only) & set(_MOST)):
            checks.text(f"{at}.{name}", getattr(self, name), _MOST[name])
        if "artifacts" in only:
            _check_artifacts(checks, f"{at}.artifacts", self.artifacts)
        if "lineage" in only:
            self.lineage.check(checks, f"{at}.lineage")
        if "labels" in only:
            checks.free_labels(f"{at}.labels", self.labels)
        if "annotations" in only:
            checks.annotations(f"{at}.annotations", self.annotations)

    def updated(self, other: VersionDraft, paths: Collection[str]) -> VersionDraft:
        """
        This draft with the fields in *paths* taken from *other*.

        Raises:
            InvalidArgument: it has too many labels or annotations then.
        """
        return merged(self, other, paths, MOST_FREE_ENTRIES)

    @property
    def size_bytes(self) -> int:
        """
        The sum of the artifacts' sizes.
        """
        return sum(artifact.size_bytes for artifact in self.artifacts)

    def image(self) -> Image:
        """
        The version as the audit log records it.
        """
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Version:
    """
    A stored version.

    Args:
        failure: why a FAILED version failed.
        delete_time: None while it is not deleted.
        copied_from: the full name of the version that it is a copy of; empty when it is none.
        revision: of the last write to it.
        actor: who created it; empty when that is not known.
        size_bytes: the sum of the artifacts' sizes, which are not always read.
        oci_digest: of its manifest as an OCI artifact; empty if that is too large, None while it is not computed.
    """

    name: VersionName
    state: VersionState
    failure: str
    draft: VersionDraft
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    copied_from: str
    revision: int
    actor: str
    size_bytes: int
    oci_digest: str | None


@dataclass(frozen=True, slots=True)
class VersionUpdate:
    """
    What UpdateVersion asks for.

    Args:
        paths: the fields to take from *draft*.
        etag: of the version that the client read; empty when it does not care.
    """

    name: VersionName
    draft: VersionDraft
    paths: frozenset[str]
    etag: str


@dataclass(frozen=True, slots=True)
class VersionDeletion:
    """
    What DeleteVersion asks for.

    Args:
        etag: of the version that the client read; empty when it does not care.
        force: even if aliases or deployments use it.
    """

    name: VersionName
    etag: str
    force: bool


@dataclass(frozen=True, slots=True)
class AssetQuery:
    """
    What FindVersions asks for.

    Args:
        parent: the namespace to search; None for all.
        sha256: of the asset.
    """

    parent: NamespaceName | None
    sha256: str


@dataclass(frozen=True, slots=True)
class AssetMatch:
    """
    A version that contains an asset.

    Args:
        paths: of the artifacts with its bytes.
    """

    name: VersionName
    paths: tuple[str, ...]
    create_time: datetime


def no_version(name: VersionName, revision: int | None = None) -> Missing:
    """
    The error for a version number that was never assigned.

    Args:
        revision: as of which; None in a write.
    """
    return Missing("VERSION_NOT_FOUND", name, revision)


def no_ready_version(model: ModelName, revision: int) -> Missing:
    """
    The error for a model without a latest version, as of a revision.
    """
    return Missing("VERSION_NOT_FOUND", f"{model}/versions/latest", revision, message=f"{model} has no READY version")


def version_deleted(name: VersionName, revision: int | None = None) -> Missing:
    """
    The error for the number of a deleted version.

    Args:
        revision: as of which; None in a write.
    """
    return Missing("VERSION_DELETED", name, revision, message=f"{name} was deleted")


def check_unused(deletion: VersionDeletion, aliases: Sequence[str], deployment: DeploymentName | None) -> None:
    """
    Whether a version may be deleted, given the aliases that point at it and a live deployment that runs it.

    Raises:
        FailedPrecondition: one of them uses it, and the deletion is not forced.
    """
    name = deletion.name
    if deletion.force:
        return
    if deployment is not None:
        raise FailedPrecondition(
            "VERSION_DEPLOYED",
            f"{deployment} runs {name}: retire it first, or force the deletion",
            metadata={"resource": str(name), "deployment": str(deployment)},
        )
    if aliases:
        raise FailedPrecondition(
            "VERSION_ALIASED",
            f"{', '.join(aliases[:10])} point at {name}: move them first, or force the deletion, which removes them",
            metadata={"resource": str(name), "aliases": ",".join(aliases[:100])},
        )


def check_mutable(version: Version, paths: Collection[str]) -> None:
    """
    Raises:
        FailedPrecondition: *version* is READY or FAILED, and one of *paths* may not change any more.
    """
    fixed = sorted(fields(paths) - set(ALWAYS_MUTABLE))
    if version.state is not VersionState.PENDING and fixed:
        raise FailedPrecondition(
            "VERSION_IMMUTABLE",
            f"{version.name} is {version.state}: {', '.join(fixed)} cannot change any more; create another version",
            metadata={"resource": str(version.name), "state": version.state, "fields": ",".join(fixed)},
        )


def check_ready(version: Version) -> None:
    """
    Raises:
        FailedPrecondition: *version* is PENDING or FAILED.
    """
    if version.state is not VersionState.READY:
        raise FailedPrecondition(
            "VERSION_NOT_READY",
            f"{version.name} is {version.state}: finalize it first",
            metadata={"resource": str(version.name), "state": version.state},
        )


def lineage_cycle(name: VersionName, parent: VersionName) -> FailedPrecondition:
    """
    The error for a cycle in the lineage.
    """
    return FailedPrecondition(
        "LINEAGE_CYCLE",
        f"{parent} is derived from {name}: a version cannot be its own ancestor",
        metadata={"resource": str(name), "parent_version": str(parent)},
    )


def check_not_failed(version: Version) -> None:
    """
    Raises:
        FailedPrecondition: *version* is FAILED.
    """
    if version.state is VersionState.FAILED:
        raise FailedPrecondition(
            "VERSION_FAILED",
            f"{version.name} has failed ({version.failure}): create another version",
            metadata={"resource": str(version.name)},
        )


def check_not_ready(version: Version) -> None:
    """
    Raises:
        FailedPrecondition: *version* is READY.
    """
    if version.state is VersionState.READY:
        raise FailedPrecondition(
            "VERSION_READY",
            f"{version.name} is READY: it cannot fail any more",
            metadata={"resource": str(version.name)},
        )


def check_paths(version: Version) -> None:
    """
    What CreateVersion checks, for versions that were made before it did: once READY, nothing of them can change.

    Raises:
        FailedPrecondition: *version* is PENDING, and not every system could have its files.
    """
    paths = [artifact.path for artifact in version.draft.artifacts]
    if version.state is not VersionState.PENDING:
        return
    wrong = [(path, reason) for path in paths if (reason := fault(path))]
    wrong += [(paths[clash.place], clash.reason) for clash in clashes(paths)]
    if wrong:
        path, reason = wrong[0]
        raise FailedPrecondition(
            "ARTIFACT_PATH_INVALID",
            f"the path {shown(path)} of {version.name} {reason} (UpdateVersion changes the artifacts)",
            metadata={"resource": str(version.name), "path": shown(path), "wrong": str(len(wrong))},
        )


def _check_artifacts(checks: Checks, at: str, artifacts: Sequence[Artifact]) -> None:
    checks.size(at, artifacts, MOST_ARTIFACTS, least=0)
    for index, artifact in enumerate(artifacts[:MOST_ARTIFACTS]):
        artifact.check(checks, f"{at}[{index}]")
    for clash in clashes([artifact.path for artifact in artifacts[:MOST_ARTIFACTS]]):
        checks.add(f"{at}[{clash.place}].path", f"clashes with artifacts[{clash.other}]: {clash.reason}")
    checks.total(at, [artifact.size_bytes for artifact in artifacts])
