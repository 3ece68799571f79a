"""
A registry that stores versions in memory without validation, to test clients with responses that no real one returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc

from modelyard.registry.v1 import aliases_pb2, models_pb2, versions_pb2
from modelyard.registry.v1.aliases_pb2_grpc import AliasServiceServicer, add_AliasServiceServicer_to_server
from modelyard.registry.v1.models_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from modelyard.registry.v1.versions_pb2_grpc import VersionServiceServicer, add_VersionServiceServicer_to_server
from tests.client.memory import Memory, fail

MODEL = "namespaces/default/models/m"
READY = versions_pb2.Version.STATE_READY
PENDING = versions_pb2.Version.STATE_PENDING


@dataclass
class Registry:
    """
    The versions of one model, MODEL, and its aliases.

    Args:
        memory: configured errors and recorded calls.
        versions: versions in the order of their numbers.
        aliases: names of versions by alias id.
    """

    memory: Memory
    versions: list[versions_pb2.Version] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)

    def add(
        self, *artifacts: versions_pb2.Artifact, state: versions_pb2.Version.State.ValueType = READY
    ) -> versions_pb2.Version:
        """
        Create a version.
        """
        number = len(self.versions) + 1
        version = versions_pb2.Version(
            name=f"{MODEL}/versions/{number}", number=number, state=state, artifacts=artifacts
        )
        self.versions.append(version)
        return version

    def serve(self, server: Any) -> None:
        """
        Add its services to *server*.
        """
        add_ModelServiceServicer_to_server(_Models(self.memory), server)  # type: ignore[abstract]
        add_VersionServiceServicer_to_server(_Versions(self), server)  # type: ignore[abstract]
        add_AliasServiceServicer_to_server(_Aliases(self), server)  # type: ignore[abstract]


class _Models(ModelServiceServicer):
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:  # noqa: N802
        self._memory.called("GetModel", context)
        if request.name != MODEL:
            fail(context, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        return models_pb2.Model(name=request.name)


class _Versions(VersionServiceServicer):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def CreateVersion(  # noqa: N802
        self, request: versions_pb2.CreateVersionRequest, context: Any
    ) -> versions_pb2.Version:
        self._registry.memory.called("CreateVersion", context)
        version = self._registry.add(*request.version.artifacts, state=PENDING)
        for each in ("description", "stage"):
            setattr(version, each, getattr(request.version, each))
        version.labels.update(request.version.labels)
        return version

    def GetVersion(self, request: versions_pb2.GetVersionRequest, context: Any) -> versions_pb2.Version:  # noqa: N802
        found = [version for version in self._registry.versions if version.name == request.name]
        if not found:
            fail(context, grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
        return found[0]

    def ResolveVersion(  # noqa: N802
        self, request: versions_pb2.ResolveVersionRequest, context: Any
    ) -> versions_pb2.Version:
        self._registry.memory.called("ResolveVersion", context)
        ready = [version.name for version in self._registry.versions if version.state == READY]
        wanted = ready[-1:] if request.reference == "latest" else [self._registry.aliases.get(request.reference, "")]
        found = [version for version in self._registry.versions if version.name in wanted]
        if not found:
            latest = request.reference == "latest"
            fail(context, grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND" if latest else "ALIAS_NOT_FOUND")
        return found[0]

    def ListVersions(  # noqa: N802
        self, request: versions_pb2.ListVersionsRequest, context: Any
    ) -> versions_pb2.ListVersionsResponse:
        self._registry.memory.called("ListVersions", context)
        first = int(request.page_token or 0)
        page = self._registry.versions[::-1][first : first + request.page_size]
        more = first + len(page) < len(self._registry.versions)
        return versions_pb2.ListVersionsResponse(versions=page, next_page_token=str(first + len(page)) if more else "")

    def FinalizeVersion(  # noqa: N802
        self, request: versions_pb2.FinalizeVersionRequest, context: Any
    ) -> versions_pb2.Version:
        self._registry.memory.called("FinalizeVersion", context)
        version = self._registry.versions[int(request.name.rpartition("/")[2]) - 1]
        for artifact in version.artifacts:
            if artifact.sha256 not in self._registry.memory.stored:
                fail(context, grpc.StatusCode.FAILED_PRECONDITION, "ASSET_MISSING")
        version.state = READY
        return version


class _Aliases(AliasServiceServicer):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def GetAlias(self, request: aliases_pb2.GetAliasRequest, context: Any) -> aliases_pb2.Alias:  # noqa: N802
        version = self._registry.aliases.get(request.name.rpartition("/")[2], "")
        if not version:
            fail(context, grpc.StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND")
        return aliases_pb2.Alias(name=request.name, version=version)

    def MoveAliases(  # noqa: N802
        self, request: aliases_pb2.MoveAliasesRequest, context: Any
    ) -> aliases_pb2.MoveAliasesResponse:
        self._registry.memory.called("MoveAliases", context)
        self._registry.aliases.update({move.alias_id: move.version for move in request.moves})
        return aliases_pb2.MoveAliasesResponse()
