"""
Pulling a version: planning and executing the downloads.
"""

from __future__ import annotations

import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.errors import RefusedError
from modelyard.cli.names import VersionRef
from modelyard.cli.parallel import Total, in_parallel
from modelyard.cli.paths import leads_out
from modelyard.cli.progress import ProgressBar, amount
from modelyard.cli.refs import fetch_version
from modelyard.client import Client
from modelyard.paths import clashes, fault, shown
from modelyard.registry.v1 import versions_pb2 as pb
from modelyard.transfer import ProgressCallback
from modelyard.transfer.local_copy import copy_file
from modelyard.transfer.partial_file import part_of
from modelyard.transfer.upload_source import digest

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Target:
    """
    A file of a version and its target path.
    """

    artifact: pb.Artifact
    place: Path


def find(yard: Client, ref: VersionRef) -> pb.Version:
    """
    The version that *ref* names.

    Raises:
        grpc.RpcError: there is no such model, alias or version.
        RefusedError: the version is not READY.
    """
    version = fetch_version(yard, ref)
    if version.state != pb.Version.STATE_READY:
        state = pb.Version.State.Name(version.state).removeprefix("STATE_")
        raise RefusedError(f"{version.name} is {state}: its files are not verified")
    return version


def targets(version: pb.Version, folder: Path) -> list[Target]:
    """
    The target path of each file of *version*. Paths are validated again: versions that were created before the registry
    validated them may lead out of *folder*, or to settings that a program executes.

    Raises:
        RefusedError: a path is invalid, or leads out of the folder through an existing link.
    """
    root = folder.resolve()
    for artifact in version.artifacts:
        reason = fault(artifact.path) or ("leads out of the folder by a link" if leads_out(root, artifact.path) else "")
        if not reason and not (_DIGEST.fullmatch(artifact.sha256) and artifact.size_bytes >= 0):
            reason = "has no right digest or size"
        if reason:
            raise RefusedError(f'nothing was written: the path "{shown(artifact.path)}" of {version.name} {reason}')
    if both := clashes([artifact.path for artifact in version.artifacts]):
        raise RefusedError(f"nothing was written: of the files of {version.name}, {both[0].reason}")
    return [Target(artifact, root / artifact.path) for artifact in version.artifacts]


def changed(yard: Client, wanted: list[Target], progress: ProgressBar) -> list[Target]:
    """
    The targets that are missing or have other contents.

    Raises:
        FileError: a file cannot be read.
    """
    there = [target for target in wanted if _may_be(target)]

    total = Total(sum(target.artifact.size_bytes for target in there), progress)
    verdicts = in_parallel(yard, _is_right, there, total, _name)
    right = {target.place for target, verdict in zip(there, verdicts, strict=True) if verdict}
    return [target for target in wanted if target.place not in right]


def _is_right(target: Target, told: ProgressCallback) -> bool:
    with target.place.open("rb") as file:
        return digest(file, told) == target.artifact.sha256


def _may_be(target: Target) -> bool:
    try:
        found = target.place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == target.artifact.size_bytes


def check_room(missing: list[Target], folder: Path) -> None:
    """
    Raises:
        RefusedError: the free disk space is smaller than the missing files.
    """
    needed = sum(target.artifact.size_bytes - _gathered(target) for target in missing)
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return
    # Some file systems report 0.
    if disk.total and needed > disk.free:
        raise RefusedError(
            f"nothing was downloaded: not enough disk space in {folder}: "
            f"{amount(needed, 'B')} to get, {amount(disk.free, 'B')} free"
        )


def _gathered(target: Target) -> int:
    """
    The bytes that an interrupted download of a file has written.
    """
    try:
        found = part_of(target.place, target.artifact.sha256).stat()
    except OSError:
        return 0
    # A file with holes takes less than its size.
    return min(getattr(found, "st_blocks", 0) * 512, target.artifact.size_bytes)


def local_copies(wanted: list[Target], missing: list[Target]) -> dict[Path, Path]:
    """
    The source of each missing file that can be copied: an existing file with the same bytes, or the first of several
    missing files with the same bytes.
    """
    lacking = {target.place for target in missing}
    sources = {target.artifact.sha256: target.place for target in wanted if target.place not in lacking}
    for target in missing:
        sources.setdefault(target.artifact.sha256, target.place)
    return {
        target.place: sources[target.artifact.sha256]
        for target in missing
        if sources[target.artifact.sha256] != target.place
    }


def fetch(yard: Client, missing: list[Target], copies: dict[Path, Path], total: Total) -> None:
    """
    Download files, the largest first, so that no large one is left for the end; then copy files with the same bytes.

    Args:
        copies: source by target, for files that are copied.

    Raises:
        FileError: a file cannot be written, its bytes do not match its digest, or its download failed.
    """

    def fetched(target: Target, told: ProgressCallback) -> None:
        # Another pull into the same folder may have fetched it since.
        if _may_be(target) and _is_right(target, told):
            return
        target.place.parent.mkdir(parents=True, exist_ok=True)
        sha256, size = target.artifact.sha256, target.artifact.size_bytes
        source = copies.get(target.place)
        if source is not None and copy_file(source, target.place, sha256, size, told):
            return
        asset = assets_pb2.Asset(name=f"assets/{sha256}", sha256=sha256, size_bytes=size)
        yard.download_file(asset, target.place, progress=told)

    for is_copy in (False, True):
        part = [each for each in missing if (each.place in copies) == is_copy]
        in_parallel(yard, fetched, sorted(part, key=lambda each: -each.artifact.size_bytes), total, _name)


def _name(target: Target) -> str:
    return target.artifact.path
