"""
Client of the asset service: checks that the assets of a version exist, and pins them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub
from modelyard.error_details import Problem, explain
from services.chassis.access import ServiceToken
from services.chassis.access.behalf import on_behalf_of
from services.chassis.clients.channels import Peer
from services.chassis.clients.outgoing import Headers, outgoing
from services.chassis.deadlines import outgoing_timeout
from services.chassis.errors import FailedPrecondition, ModelyardError, ResourceExhausted, Unavailable
from services.chassis.interceptors import identity
from services.registry.model.versions import Artifact, Version, VersionState

if TYPE_CHECKING:
    from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceAsyncStub

_SERVICE = "/modelyard.cdn.v1.AssetService"
_AT_ONCE = 16
_UNPIN_SECONDS = 5.0


class Assets:
    """
    Asks the cdn service.

    Args:
        workers: of the service, which take turns.
        token: of the registry: who finalizes a version need not be allowed to pin. The caller is named beside it: a
            version must not contain an asset that its writer may not see.
    """

    def __init__(self, workers: Sequence[Peer], token: ServiceToken) -> None:
        self._token = token
        self._turns = itertools.cycle(workers)

    async def verify(self, version: Version) -> None:
        """
        Check that every artifact of a PENDING version is stored, with the size that it declares.

        Raises:
            FailedPrecondition: one is not (ASSET_MISSING), or it has another size (ASSET_SIZE_MISMATCH).
            Unavailable: the cdn service does not answer.
        """
        if version.state is not VersionState.PENDING or not version.draft.artifacts:
            return
        digests = {artifact.sha256: artifact for artifact in version.draft.artifacts}
        try:
            missing = await self._missing(list(digests))
            for artifact in version.draft.artifacts:
                if artifact.sha256 in missing:
                    raise _missing(artifact)
            sizes = await self._sizes(digests)
        except grpc.aio.AioRpcError as error:
            raise _unavailable() from error
        for artifact in version.draft.artifacts:
            _check_size(artifact, sizes[artifact.sha256])

    async def pin(self, version: Version) -> None:
        """
        Pin the artifacts of a version, all or none.

        Raises:
            FailedPrecondition: one is not stored any more (ASSET_MISSING).
            ResourceExhausted: the version may not keep so much (ASSET_QUOTA).
            Unavailable: the cdn service does not answer: perhaps they were pinned.
        """
        digests = dict.fromkeys(artifact.sha256 for artifact in version.draft.artifacts)
        # No request id: the pins may have been released since, and then this call must pin again.
        request = pb.PinRequest(names=map(_name, digests), owner=str(version.name))
        try:
            with outgoing(f"{_SERVICE}/Pin") as metadata:
                await self._cdn().Pin(request, timeout=outgoing_timeout(), metadata=self._own(metadata))
        except grpc.aio.AioRpcError as error:
            raise _not_pinned(version, explain(error)) from error

    async def unpin(self, owner: str, once: str) -> None:
        """
        Release all pins of an owner.

        Args:
            once: the request id under which it is done once, however often it is asked for.

        Raises:
            Unavailable: the cdn service does not answer: perhaps it was done.
        """
        request = pb.UnpinRequest(owner=owner, request_id=once)
        timeout = min(outgoing_timeout(), _UNPIN_SECONDS)
        try:
            with outgoing(f"{_SERVICE}/Unpin") as metadata:
                await self._cdn().Unpin(request, timeout=timeout, metadata=self._own(metadata))
        except grpc.aio.AioRpcError as error:
            raise _unavailable() from error

    def _cdn(self) -> AssetServiceAsyncStub:
        return next(self._turns).made(_stub)

    def _own(self, metadata: Headers) -> Headers:
        return (*metadata, *self._token.metadata(), *on_behalf_of(identity()))

    async def _missing(self, digests: list[str]) -> set[str]:
        with outgoing(f"{_SERVICE}/FindMissing") as metadata:
            request = pb.FindMissingRequest(sha256=digests)
            answer = await self._cdn().FindMissing(request, timeout=outgoing_timeout(), metadata=self._own(metadata))
        return set(answer.sha256)

    async def _sizes(self, digests: dict[str, Artifact]) -> dict[str, int]:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def size(artifact: Artifact) -> int:
            async with turns:
                try:
                    with outgoing(f"{_SERVICE}/GetAsset") as metadata:
                        request = pb.GetAssetRequest(name=_name(artifact.sha256))
                        asset = await self._cdn().GetAsset(
                            request, timeout=outgoing_timeout(), metadata=self._own(metadata)
                        )
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.NOT_FOUND:
                        raise _missing(artifact) from None
                    raise
                return asset.size_bytes

        tasks = [asyncio.create_task(size(artifact)) for artifact in digests.values()]
        try:
            return dict(zip(digests, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()


def _stub(channel: grpc.aio.Channel) -> AssetServiceAsyncStub:
    return AssetServiceStub(channel)


def _name(sha256: str) -> str:
    return f"assets/{sha256}"


def _unavailable() -> Unavailable:
    return Unavailable("ASSET_SERVICE_UNAVAILABLE", "the asset service does not answer: retry", retry_after=1.0)


def _not_pinned(version: Version, problem: Problem) -> ModelyardError:
    metadata = problem.metadata or {}
    if problem.code is grpc.StatusCode.NOT_FOUND:
        for artifact in version.draft.artifacts:
            if metadata.get("resource") == _name(artifact.sha256):
                return _missing(artifact)
        return FailedPrecondition("ASSET_MISSING", f"{problem.message}: upload it first", metadata=metadata)
    # A server that is busy says RESOURCE_EXHAUSTED, too.
    if problem.code is grpc.StatusCode.RESOURCE_EXHAUSTED and problem.reason == "ASSET_QUOTA":
        return ResourceExhausted("ASSET_QUOTA", problem.message, metadata=metadata)
    return _unavailable()


def _missing(artifact: Artifact) -> FailedPrecondition:
    return FailedPrecondition(
        "ASSET_MISSING",
        f"{artifact.path}: assets/{artifact.sha256} is not stored: upload it first",
        metadata={"path": artifact.path, "sha256": artifact.sha256},
    )


def _check_size(artifact: Artifact, size: int) -> None:
    if size != artifact.size_bytes:
        raise FailedPrecondition(
            "ASSET_SIZE_MISMATCH",
            f"{artifact.path} declares {artifact.size_bytes:,} bytes; assets/{artifact.sha256} has {size:,}",
            metadata={"path": artifact.path, "sha256": artifact.sha256, "size_bytes": str(size)},
        )
