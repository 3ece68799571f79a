"""
How bytes become an asset, whichever way they came.
"""

from __future__ import annotations

from google.protobuf.message import Message

from modelyard.cdn.v1 import assets_pb2 as pb
from services.cdn.model import Draft, asset_name
from services.cdn.service.rendering import from_asset
from services.cdn.store.assets import AssetStore
from services.cdn.store.pins import Pins
from services.cdn.store.records import Arrival, Records
from services.chassis.context import Context
from services.ledger.service.calls import Mutations


class Storing:
    """
    Makes assets visible, and finds those that are there.

    Args:
        assets: the bytes.
        records: what is known of them.
        pins: knows the quotas.
        mutations: does the writes.
        slow: does those that wait for the object store; the others shall not wait for that.
    """

    def __init__(self, assets: AssetStore, records: Records, pins: Pins, mutations: Mutations, slow: Mutations) -> None:
        self._assets, self._records, self._pins = assets, records, pins
        self._mutations, self._slow = mutations, slow

    async def there(self, context: Context, request: Message, draft: Draft) -> pb.Asset | None:
        """
        The asset that *draft* declares, if its bytes are stored. A private one becomes public when it is declared so.

        Raises:
            DataLoss: the asset has another size than declared.
            ResourceExhausted: the owner's quota is used up.
        """
        await self._pins.check_room(draft.owner, draft.size_bytes)
        asset = await self._records.find(draft.sha256)
        if asset is None:
            return None
        draft.check_size(asset.size_bytes)
        if draft.private or not asset.private:
            return from_asset(asset)
        published = await self._slow.do(
            context,
            request,
            pb.Asset,
            lambda tx: self._records.publish(tx, draft.sha256, self._assets.copy_to_public),
            from_asset,
            touches=None,
        )
        self._assets.forget_private(asset)
        return published

    async def arrived(self, context: Context, request: Message, arrival: Arrival) -> pb.Asset:
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
