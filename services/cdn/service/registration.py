"""
How bytes become an asset, whichever way they came.
"""

from __future__ import annotations

from google.protobuf.message import Message

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.model import Draft, asset_name
from services.cdn.service.privacy import Privacy
from services.cdn.service.rendering import from_asset
from services.cdn.store.records import Records, VerifiedBytes
from services.cdn.store.retention.pins import Pins
from services.chassis.serving.context import Context
from services.ledger.service.calls import Mutations, say_revision


class Registration:
    """
    Makes assets visible, and finds those that are there.

    Args:
        records: what is known of them.
        pins: knows the quotas.
        mutations: does the writes.
        privacy: who may know of private assets.
    """

    def __init__(self, records: Records, pins: Pins, mutations: Mutations, privacy: Privacy) -> None:
        self._records, self._pins, self._mutations, self._privacy = records, pins, mutations, privacy

    async def there(self, context: Context, draft: Draft) -> pb.Asset | None:
        """
        The asset that *draft* declares, if no bytes are needed for it; the call says which revision that reflects. To
        make a private one public takes its bytes: whoever knows no more than a digest cannot. So it does for those who
        may not know of a private one.

        Raises:
            InvalidArgument: the asset has another size than declared.
            ResourceExhausted: the owner's quota is used up.
            FailedPrecondition: the caller has seen a revision that is not there.
        """
        await self._mutations.check_reached(context)
        await self._pins.check_room(draft.owner, draft.size_bytes)
        found = await self._records.find(draft.sha256, private=self._privacy.sees())
        if found is None or (found.value.private and not draft.private):
            return None
        draft.check_size(found.value.size_bytes)
        say_revision(context, found.revision)
        return from_asset(found.value)

    async def arrived(self, context: Context, request: Message, arrival: VerifiedBytes) -> pb.Asset:
        """
        Make an asset visible whose bytes are verified and in S3.
        """
        return await self._mutations.do(
            context,
            request,
            pb.Asset,
            lambda tx: self._records.register(tx, arrival),
            from_asset,
            touches=[asset_name(arrival.sha256)],
        )
