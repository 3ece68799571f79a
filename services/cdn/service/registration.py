"""
Registration of verified bytes as assets, and deduplication of uploads.
"""

from __future__ import annotations

from google.protobuf.message import Message

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.model import Draft, asset_name
from services.cdn.service.callers import caller
from services.cdn.service.rendering import from_asset
from services.cdn.service.rights import Rights
from services.cdn.store.records import Records, VerifiedBytes
from services.cdn.store.retention.pins import Pins
from services.chassis.serving.context import Context
from services.ledger.service.calls import Mutations, say_revision


class Registration:
    """
    Registers assets, and finds existing ones.

    Args:
        records: of assets.
        pins: checks the quotas.
        mutations: runs the writes.
        rights: who may see which asset.
    """

    def __init__(self, records: Records, pins: Pins, mutations: Mutations, rights: Rights) -> None:
        self._records, self._pins, self._mutations, self._rights = records, pins, mutations, rights

    async def find_stored(self, context: Context, draft: Draft) -> pb.Asset | None:
        """
        Find the asset that *draft* declares, if its bytes need not be uploaded, and report the response's revision.
        Making a private asset public requires its bytes: knowing the digest is not enough. The same holds for callers
        who may not see the asset.

        Raises:
            InvalidArgument: the asset has another size than declared.
            ResourceExhausted: the owner's quota is exceeded.
            FailedPrecondition: the requested minimum revision does not exist.
        """
        await self._mutations.check_reached(context)
        viewer = self._rights.viewer()
        await self._pins.check_room(draft.owner, draft.size_bytes, viewer)
        found = await self._records.find(draft.sha256, viewer)
        if found is None or (found.value.private and not draft.private):
            return None
        draft.check_size(found.value.size_bytes)
        say_revision(context, found.revision)
        return from_asset(found.value)

    async def register(self, context: Context, request: Message, verified: VerifiedBytes) -> pb.Asset:
        """
        Register an asset whose bytes are verified and in S3. The caller has sent all of them, and may see it from now
        on.
        """
        uploader = caller().subject
        return await self._mutations.do(
            context,
            request,
            pb.Asset,
            lambda tx: self._records.register(tx, verified, uploader),
            from_asset,
            touches=[asset_name(verified.sha256)],
        )
