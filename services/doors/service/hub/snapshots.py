"""
The version that a revision of the Hub names, with its files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.error_details import explain
from modelyard.registry.v1 import models_pb2, versions_pb2
from services.chassis.errors import NotFound
from services.doors.model.files import File, Tree
from services.doors.model.hub.commits import COMMIT, PREFIX, Commits
from services.doors.model.hub.repositories import Repository
from services.doors.store.recent import Recent
from services.doors.store.registry import Registry

MAIN: Final = "main"
_MOST_NUMBERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A version as the Hub knows it.

    Args:
        model: its model.
        version: it; None for the commit before the first version.
        commit: its id.
        tree: its files.
    """

    model: models_pb2.Model
    version: versions_pb2.Version | None
    commit: str
    tree: Tree


class Snapshots:
    """
    Finds the versions that revisions name.

    Args:
        registry: where they are.
        recent: versions that were read lately.
    """

    def __init__(self, registry: Registry, recent: Recent) -> None:
        self._registry = registry
        self._recent = recent

    async def find(self, repository: Repository, revision: str, token: str) -> Snapshot:
        """
        The version that a revision names: a commit id or its beginning, `main`, an alias, `v3` or `3`.

        Raises:
            NotFound: no READY version has that name (VERSION_NOT_FOUND), or the model is deleted (MODEL_NOT_FOUND).
            grpc.aio.AioRpcError: as the registry answered.
        """
        if not COMMIT.fullmatch(revision):
            return await self._find(repository, revision, token)
        return await self._recent.get(
            token,
            ("hub", repository.name, revision),
            lambda: self._find(repository, revision, token),
            lambda snapshot: len(snapshot.tree.files),
        )

    async def _find(self, repository: Repository, revision: str, token: str) -> Snapshot:
        model = await self._registry.model(repository.name, token)
        commits = commits_of(model)
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if revision == MAIN:
            version = await self._newest(model, token)
        elif COMMIT.fullmatch(revision):
            version = await self._numbered(model, commits.number(revision), revision, token)
        else:
            version = await self._named(model, commits, revision, token)
        # Clients keep what a commit id names for ever: the files of a version that is not READY may still change.
        if version is not None and version.state != version.STATE_READY:
            raise no_revision(model.name, revision)
        number = 0 if version is None else version.number
        return Snapshot(model, version, commits.of(number), _tree(version))

    async def _newest(self, model: models_pb2.Model, token: str) -> versions_pb2.Version | None:
        try:
            return await self._registry.resolve(model.name, "latest", token)
        except grpc.aio.AioRpcError as error:
            # A model without a version has the commit before it.
            if explain(error).reason != "VERSION_NOT_FOUND":
                raise
            return None

    async def _numbered(
        self, model: models_pb2.Model, number: int | None, revision: str, token: str
    ) -> versions_pb2.Version | None:
        if number is None:
            raise no_revision(model.name, revision)
        if number == 0:
            return None
        return await self._registry.resolve(model.name, str(number), token)

    async def _named(
        self, model: models_pb2.Model, commits: Commits, revision: str, token: str
    ) -> versions_pb2.Version | None:
        try:
            return await self._registry.resolve(model.name, revision, token)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}:
                raise
            if PREFIX.fullmatch(revision):
                newest = model.latest_version
                for number in range(newest, max(0, newest - _MOST_NUMBERS) - 1, -1):
                    if commits.of(number).startswith(revision):
                        return await self._numbered(model, number, revision, token)
            raise no_revision(model.name, revision) from None


def commits_of(model: models_pb2.Model) -> Commits:
    """
    The commit ids of a model's versions.
    """
    return Commits(model.name, nanoseconds(model.create_time))


def nanoseconds(time_: Timestamp) -> int:
    """
    A time as nanoseconds since 1970.
    """
    return time_.seconds * 10**9 + time_.nanos


def no_revision(model: str, revision: str) -> NotFound:
    """
    The error for a revision that no version has.
    """
    return NotFound("VERSION_NOT_FOUND", f"{model}@{revision}"[:300], f"{model} has no revision {revision[:100]!r}")


def _tree(version: versions_pb2.Version | None) -> Tree:
    artifacts = () if version is None else version.artifacts
    return Tree.of(File(each.path, each.sha256, each.size_bytes, each.media_type) for each in artifacts)
