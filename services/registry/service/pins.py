"""
Pins of versions: made before a version is READY, released after it is deleted (docs/adr/0017).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.chassis.errors import Unavailable
from services.chassis.serving.background import beside, every
from services.registry.model.pins import PIN_SECONDS, PinRelease
from services.registry.model.versions import Version, VersionState
from services.registry.service.assets import Assets
from services.registry.store.pin_releases import PinReleaseStore

_EVERY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Pins:
    """
    Pins the artifacts of versions, and releases them.

    Args:
        assets: the asset service.
        releases: claims and pending releases.
    """

    def __init__(self, assets: Assets, releases: PinReleaseStore) -> None:
        self._assets = assets
        self._store = releases

    async def pin(self, version: Version) -> int | None:
        """
        Pin the artifacts of a PENDING version. Unless it becomes READY, they are released later.

        Returns:
            The claim, which the last write of the version checks and deletes; None when there is nothing to pin, or the
            version has changed.

        Raises:
            FailedPrecondition: an artifact is missing (ASSET_MISSING); none was pinned.
            ResourceExhausted: the version may not keep so much (ASSET_QUOTA); none was pinned.
            Unavailable: the asset service does not answer.
        """
        if version.state is not VersionState.PENDING or not version.draft.artifacts:
            return None
        claim = await self._store.claim(version.name, version.revision)
        if claim is None:
            return None
        try:
            async with asyncio.timeout(PIN_SECONDS):
                # First the pending releases of an earlier attempt, or of a purged version of this name.
                await self._release_all(claim.releases)
                await self._assets.pin(version)
        except TimeoutError:
            raise Unavailable(
                "ASSET_SERVICE_UNAVAILABLE", f"pinning took longer than {PIN_SECONDS} s: retry", retry_after=1.0
            ) from None
        return claim.id

    async def release_due(self) -> int:
        """
        Release pins that are due, until none are left or the asset service does not answer. Safe to run concurrently.

        Returns:
            How many releases were done.
        """
        count = 0
        while releases := await self._store.take_due():
            answers = await asyncio.gather(*(self._try_release(release) for release in releases))
            paid = [release for release, answered in zip(releases, answers, strict=True) if answered]
            await self._store.delete(paid)
            count += len(paid)
            if len(paid) < len(releases):
                break
        return count

    async def _release_all(self, releases: Sequence[PinRelease]) -> None:
        for release in releases:
            await self._assets.unpin(release.owner, release.request_id)
        await self._store.delete(releases)

    async def _try_release(self, release: PinRelease) -> bool:
        try:
            await self._assets.unpin(release.owner, release.request_id)
        except Unavailable as error:
            _log.warning("could not release the pins of %s, will retry: %s", release.owner, error)
            return False
        return True


@asynccontextmanager
async def releasing_pins(pins: Pins) -> AsyncIterator[None]:
    """
    Release the pins of deleted versions in the background while the block runs.
    """
    async with beside(every(_EVERY_SECONDS, pins.release_due, "take pins back")):
        yield
