"""
Pins of versions: made before a version is READY, taken back when it is gone (docs/adr/0017).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.chassis.errors import Unavailable
from services.registry.model.pins import PIN_SECONDS, Debt
from services.registry.model.versions import Version, VersionState
from services.registry.service.assets import Assets
from services.registry.store.unpins import UnpinStore

_log = logging.getLogger(__name__)


class Pins:
    """
    Pins, and takes pins back.

    Args:
        assets: the service that keeps them.
        unpins: what has to be taken back.
    """

    def __init__(self, assets: Assets, unpins: UnpinStore) -> None:
        self._assets = assets
        self._unpins = unpins

    async def pin(self, version: Version) -> int | None:
        """
        Pin the artifacts of a PENDING version. Unless it becomes READY they are taken back later, whatever crashes.

        Returns:
            The claim that the version's last write checks and takes away; None where there is nothing to pin, or the
            version is no longer as it was.

        Raises:
            FailedPrecondition: an artifact is missing (ASSET_MISSING); none was pinned.
            ResourceExhausted: the version may not keep so much (ASSET_QUOTA); none was pinned.
            Unavailable: the asset service does not answer.
        """
        if version.state is not VersionState.PENDING or not version.draft.artifacts:
            return None
        claim = await self._unpins.claim(version.name, version.revision)
        if claim is None:
            return None
        try:
            async with asyncio.timeout(PIN_SECONDS):
                # First what is owed from before: by another attempt, or by a purged version that had this name.
                await self._pay(claim.debts)
                await self._assets.pin(version)
        except TimeoutError:
            raise Unavailable(
                "ASSET_SERVICE_UNAVAILABLE", f"pinning took longer than {PIN_SECONDS} s: retry", retry_after=1.0
            ) from None
        return claim.id

    async def pay_due(self) -> int:
        """
        Take back what is due, until nothing is or the asset service does not answer. Several processes may do it.

        Returns:
            How many debts were paid.
        """
        count = 0
        while debts := await self._unpins.take():
            answers = await asyncio.gather(*(self._try(debt) for debt in debts))
            paid = [debt for debt, answered in zip(debts, answers, strict=True) if answered]
            await self._unpins.paid(paid)
            count += len(paid)
            if len(paid) < len(debts):
                break
        return count

    async def _pay(self, debts: Sequence[Debt]) -> None:
        for debt in debts:
            await self._assets.unpin(debt.owner, debt.request_id)
        await self._unpins.paid(debts)

    async def _try(self, debt: Debt) -> bool:
        try:
            await self._assets.unpin(debt.owner, debt.request_id)
        except Unavailable as error:
            _log.warning("could not take back the pins of %s, later again: %s", debt.owner, error)
            return False
        return True
