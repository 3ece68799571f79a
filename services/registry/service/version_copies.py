"""
Copies versions: a PENDING copy first, then its pins, then READY. Each step can be retried.
"""

from __future__ import annotations

import hashlib

from modelyard.registry.v1 import versions_pb2 as pb
from services.chassis.errors import FailedPrecondition, ModelyardError, ResourceExhausted
from services.chassis.serving.context import Context
from services.ledger.model.calls import Write
from services.ledger.service.calls import Mutations
from services.registry.model.names import ModelName, VersionName
from services.registry.model.versions import Version, check_not_failed
from services.registry.service.pins import Pins
from services.registry.service.rendering import from_version
from services.registry.store.versions import VersionStore


class VersionCopies:
    """
    Copies versions.

    Args:
        versions: the stored versions.
        pins: pins their artifacts.
        mutations: runs the writes.
    """

    def __init__(self, versions: VersionStore, pins: Pins, mutations: Mutations) -> None:
        self._versions = versions
        self._pins = pins
        self._mutations = mutations

    async def copy(
        self, context: Context, request: pb.CopyVersionRequest, parent: ModelName, source: VersionName
    ) -> pb.Version:
        """
        Copy *source* to *parent*.

        Raises:
            Missing, FailedPrecondition, ResourceExhausted, Unavailable: see the contract.
        """
        pinned: list[tuple[Version, int | None]] = []

        async def prepare(_: Write) -> None:
            copy = await self._begin(context, request, parent, source)
            pinned.append((copy, await self._pin(context, request, copy)))

        # A retry of a completed copy gets the stored response and pins nothing.
        await self._mutations.before(context, request, prepare)
        return await self._mutations.do(
            context,
            request,
            pb.Version,
            lambda tx: self._versions.finalize(tx, *pinned[0]),
            from_version,
            touches=[parent],
        )

    async def _begin(
        self, context: Context, request: pb.CopyVersionRequest, parent: ModelName, source: VersionName
    ) -> Version:
        """
        The copy, as it is now: a retry finds the one that was begun before.
        """
        first = pb.CopyVersionRequest(parent=request.parent, source=request.source)
        if request.request_id:
            first.request_id = f"copy:{hashlib.sha256(request.request_id.encode()).hexdigest()}"
        begun = await self._mutations.do(
            context,
            first,
            pb.Version,
            lambda tx: self._versions.copy(tx, parent, source),
            from_version,
            touches=[parent],
        )
        copy = (await self._versions.get_now(VersionName.parse(begun.name))).value
        check_not_failed(copy)
        return copy

    async def _pin(self, context: Context, request: pb.CopyVersionRequest, copy: Version) -> int | None:
        try:
            return await self._pins.pin(copy)
        except ModelyardError as error:
            # No request can continue it, so it must not count against the quota forever.
            if not request.request_id or isinstance(error, FailedPrecondition | ResourceExhausted):
                failure = f"not copied: {error.message}"[:1024]
                await self._mutations.do(
                    context,
                    pb.FailVersionRequest(name=str(copy.name), failure=failure),
                    pb.Version,
                    lambda tx: self._versions.fail(tx, copy.name, failure),
                    from_version,
                    touches=[copy.name.parent],
                )
            raise
