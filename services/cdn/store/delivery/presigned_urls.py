"""
Presigned URLs of assets and of versions.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from services.cdn.model.delivery import PresignedUrl, Terms
from services.cdn.model.names import asset_name
from services.cdn.store.delivery.signers import Signer, unsupported
from services.cdn.store.delivery.version_copies import VersionCopies, copies_prefix, no_files
from services.cdn.store.viewers import Viewer, visible
from services.ledger.model.calls import Missing
from services.ledger.store.database import Database
from services.ledger.store.statements import Statement

_PRIVATE = Statement(
    "signing.asset",
    f"SELECT private FROM assets WHERE sha256 = $1 AND state = 'LIVE' AND {visible(2)}",  # noqa: S608 - constants
)


class PresignedUrls:
    """
    Presigns URLs of assets and versions.

    Args:
        database: with the records of assets.
        signer: of the URLs.
        shares: creates the copies that a version's URL gives access to.
    """

    def __init__(self, database: Database, signer: Signer, shares: VersionCopies) -> None:
        self._database, self._signer, self._shares = database, signer, shares

    async def asset(self, sha256: str, terms: Terms, viewer: Viewer) -> PresignedUrl:
        """
        Raises:
            Missing: there is no such asset, or the viewer may not see it.
            FailedPrecondition: the signer does not support this (SIGNER_LACKS).
        """
        self._signer.check(terms)
        rows = await self._database.fetch(_PRIVATE, sha256, *viewer.parameters)
        if not rows:
            raise Missing("ASSET_NOT_FOUND", asset_name(sha256))
        key = f"private/{sha256}" if rows[0]["private"] else asset_name(sha256)
        return await self._sign(key, terms)

    async def version(self, owner: str, terms: Terms, viewer: Viewer) -> PresignedUrl:
        """
        A URL that ends in a wildcard, to be replaced by the digest of any file of the version.

        Raises:
            NotFound: the version pins nothing, or the viewer may not read its namespace.
            FailedPrecondition: the signer does not support this (SIGNER_LACKS).
        """
        self._signer.check(terms)
        if not self._signer.signs_prefixes:
            raise unsupported("all files of a version at once")
        if not viewer.reads(owner):
            raise no_files(owner)
        await self._shares.make(owner, datetime.now(UTC) + timedelta(seconds=terms.seconds))
        return await self._sign(f"{copies_prefix(owner)}*", terms)

    async def _sign(self, key: str, terms: Terms) -> PresignedUrl:
        # Whole seconds, as in the URL: the reported expiry is never later than the real one.
        expires = int(time.time()) + terms.seconds
        url = await self._signer.sign(key, terms, expires)
        return PresignedUrl(url, datetime.fromtimestamp(expires, UTC))
