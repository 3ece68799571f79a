"""
Pushing a version: planning and executing the uploads.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.folders import ScannedFile
from modelyard.cli.parallel import Total, in_parallel
from modelyard.cli.progress import ProgressBar
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb
from modelyard.transfer import Attempts, ProgressCallback, UploadSource

R = TypeVar("R")

# How many of the newest versions are searched for one that an interrupted push created. Each may have megabytes.
_LOOKED_AT = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The uploads of a push.

    Args:
        files: the hashed files of the folder, in the order of the scan.
        missing: one file of each digest that is not stored yet.
        names: path in the version by path on this machine.
    """

    files: list[UploadSource]
    missing: list[UploadSource]
    names: dict[Path, str]

    @property
    def stored(self) -> list[UploadSource]:
        """
        The files whose bytes are already stored.
        """
        missing = {file.sha256 for file in self.missing}
        return [file for file in self.files if file.sha256 not in missing]

    @property
    def missing_bytes(self) -> int:
        """
        The number of bytes to upload.
        """
        return sum(file.size_bytes for file in self.missing)


def prepare(yard: Client, found: list[ScannedFile], progress: ProgressBar) -> Plan:
    """
    Hash the files, and ask the service which of them are missing.

    Raises:
        FileError: a file cannot be read, or changed while it was hashed.
        grpc.RpcError: FindMissing failed.
    """

    def hashed(file: ScannedFile, told: ProgressCallback) -> UploadSource:
        return UploadSource.of(file.place, progress=told)

    files = in_parallel(
        yard, hashed, found, Total(sum(each.size_bytes for each in found), progress), lambda each: each.path
    )
    by_digest = {file.sha256: file for file in files}
    response = yard.assets.FindMissing(assets_pb2.FindMissingRequest(sha256=by_digest))
    return Plan(files, [by_digest[sha256] for sha256 in response.sha256], {each.place: each.path for each in found})


def send(yard: Client, plan: Plan, private: bool, total: Total) -> None:
    """
    Upload the missing files, the largest first, so that no large one is left for the end.

    Raises:
        FileError: a file cannot be read or has changed, or its upload failed.
    """

    def sent(file: UploadSource, told: ProgressCallback) -> assets_pb2.Asset:
        return yard.upload_file(file, private=private, progress=told)

    missing = sorted(plan.missing, key=lambda file: -file.size_bytes)
    in_parallel(yard, sent, missing, total, lambda file: plan.names[file.path])


def artifacts(found: list[ScannedFile], files: Iterable[UploadSource]) -> list[pb.Artifact]:
    """
    The files as artifacts of a version.
    """
    return [
        pb.Artifact(path=each.path, sha256=file.sha256, size_bytes=file.size_bytes, media_type=file.media_type)
        for each, file in zip(found, files, strict=True)
    ]


def version_of(yard: Client, model: str, wanted: pb.Version) -> tuple[pb.Version, bool]:
    """
    Create and finalize a version of *model*, or reuse an equal one: the newest, or a pending one of an interrupted
    push, which is finalized.

    Returns:
        The READY version, and whether it existed before.

    Raises:
        grpc.RpcError: it cannot be created, or files are missing.
    """
    request = pb.ListVersionsRequest(parent=model, page_size=_LOOKED_AT)
    for place, version in enumerate(yard.versions.ListVersions(request).versions):
        there = version.state == pb.Version.STATE_READY and place == 0
        if _same(version, wanted) and (there or version.state == pb.Version.STATE_PENDING):
            return (version, True) if there else (_finalized(yard, version.name), False)
    create = pb.CreateVersionRequest(parent=model, version=wanted, request_id=uuid.uuid4().hex)
    return _finalized(yard, _retried(yard.versions.CreateVersion, create).name), False


def _finalized(yard: Client, name: str) -> pb.Version:
    return _retried(yard.versions.FinalizeVersion, pb.FinalizeVersionRequest(name=name, request_id=uuid.uuid4().hex))


def _retried(call: Callable[[R], pb.Version], request: R) -> pb.Version:
    # Both writes may be done again: they have a request id. After hours of sending, a service that starts just now must
    # not be the end.
    # Of two that finalize the same version at once, one is told to ask again.
    attempts = Attempts(("PINS_TAKEN_BACK",))
    while True:
        try:
            return call(request)
        except grpc.RpcError as error:
            time.sleep(attempts.delay(error))


def _same(version: pb.Version, wanted: pb.Version) -> bool:
    ours, theirs = (sorted(each.artifacts, key=lambda file: file.path) for each in (wanted, version))
    return (ours, wanted.description, wanted.stage, dict(wanted.labels)) == (
        theirs,
        version.description,
        version.stage,
        dict(version.labels),
    )
