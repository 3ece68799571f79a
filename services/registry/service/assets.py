"""
The cdn service as the registry sees it: whether the bytes are there that a version names.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import grpc

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub
from services.chassis.deadlines import outgoing_timeout
from services.chassis.errors import FailedPrecondition, Unavailable
from services.chassis.interceptors import request_id
from services.registry.model.versions import Artifact, Version, VersionState

_AT_ONCE = 16


class Assets:
    """
    Asks the cdn service.

    Args:
        channels: to its workers, which take turns.
    """

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._turns = itertools.cycle([AssetServiceStub(channel) for channel in channels])

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
            raise Unavailable(
                "ASSET_SERVICE_UNAVAILABLE", "the asset service does not answer: retry", retry_after=1.0
            ) from error
        for artifact in version.draft.artifacts:
            _check_size(artifact, sizes[artifact.sha256])

    async def _missing(self, digests: list[str]) -> set[str]:
        answer = await next(self._turns).FindMissing(
            pb.FindMissingRequest(sha256=digests), timeout=outgoing_timeout(), metadata=_metadata()
        )
        return set(answer.sha256)

    async def _sizes(self, digests: dict[str, Artifact]) -> dict[str, int]:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def size(artifact: Artifact) -> int:
            async with turns:
                try:
                    asset = await next(self._turns).GetAsset(
                        pb.GetAssetRequest(name=f"assets/{artifact.sha256}"),
                        timeout=outgoing_timeout(),
                        metadata=_metadata(),
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


def _metadata() -> tuple[tuple[str, str], ...]:
    return (("x-request-id", request_id() or ""),)
