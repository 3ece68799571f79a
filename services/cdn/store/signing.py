"""
Signed addresses: by S3 (Signature Version 4 in the query) or by CloudFront (RSA).
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol
from urllib.parse import quote

from botocore.signers import CloudFrontSigner as PolicySigner
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from services.cdn.model.delivery import Signed, Terms
from services.cdn.model.names import asset_name
from services.cdn.store.s3 import Lane, S3Settings
from services.cdn.store.shares import Shares, share_prefix
from services.chassis.errors import FailedPrecondition
from services.ledger.model.calls import Missing
from services.ledger.store.database import Database
from services.ledger.store.statements import Statement

_PRIVATE = Statement("signing.asset", "SELECT private FROM assets WHERE sha256 = $1 AND state = 'LIVE'")


@dataclass(frozen=True, slots=True)
class CloudFrontKey:
    """
    What CloudFront knows us by.

    Args:
        domain: of the distribution.
        key_pair: the id of the public key, which must be in a key group that the distribution trusts.
        pem: the private key.
    """

    domain: str
    key_pair: str
    pem: str = field(repr=False)

    def load(self) -> rsa.RSAPrivateKey:
        """
        Raises:
            ValueError: *pem* is not the PEM of an RSA key without a passphrase.
        """
        try:
            key = serialization.load_pem_private_key(self.pem.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # What was wrong with it could quote it.
            raise ValueError("this is not a private key in PEM without a passphrase") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("this is not an RSA key")
        return key


class Signer(Protocol):
    """
    Signs addresses.
    """

    #: It can sign a whole prefix at once.
    signs_prefixes: bool

    def check(self, terms: Terms) -> None:
        """
        Raises:
            FailedPrecondition: it cannot sign such terms (SIGNER_LACKS).
        """

    async def sign(self, key: str, terms: Terms, expires: int) -> str:
        """
        The address of the object *key*, or of all that a key with a * at its end stands for.

        Args:
            expires: when it ends, in seconds since 1970.
        """

    async def close(self) -> None:
        """
        End its threads, if it has any.
        """


class S3Signer:
    """
    Signs for the bucket itself. With keys that are lent for a time, an address ends when they do, which may be sooner.

    Args:
        settings: the bucket and the keys.
        public_endpoint: where clients reach the object store, when that is not where we do.
    """

    signs_prefixes = False

    def __init__(self, settings: S3Settings, public_endpoint: str | None) -> None:
        self._bucket = settings.bucket
        reached = replace(settings, endpoint=public_endpoint or settings.endpoint)
        # Signing asks nobody, but fetching the keys of a machine's role does.
        self._lane = Lane(reached, "s3-sign", threads=2, connect=1, read=5, attempts=2)

    def check(self, terms: Terms) -> None:
        """
        See `Signer`.
        """
        if terms.ip_range is not None:
            raise _lacks("an IP range")

    async def sign(self, key: str, terms: Terms, expires: int) -> str:
        """
        See `Signer`. Signature Version 4: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters".
        """
        params = {"Bucket": self._bucket, "Key": key}
        if terms.disposition:
            params["ResponseContentDisposition"] = terms.disposition
        sign = partial(
            self._lane.client.generate_presigned_url, "get_object", Params=params, ExpiresIn=expires - int(time.time())
        )
        return await self._lane.run(sign)

    async def close(self) -> None:
        """
        See `Signer`.
        """
        await self._lane.close()


class CloudFrontSigner:
    """
    Signs for a distribution.

    CloudFront Developer Guide, "Create a signed URL using a canned policy" and "… using a custom policy": RSA with
    SHA-1 (PKCS #1 v1.5) over the policy. A canned policy is short and says only when; a custom one says from where,
    too, and may have a * in its resource.

    Raises:
        ValueError: the key is not one.
    """

    signs_prefixes = True

    def __init__(self, key: CloudFrontKey) -> None:
        self._private_key = key.load()
        self._domain = key.domain
        self._signer = PolicySigner(key.key_pair, self._rsa)

    def check(self, terms: Terms) -> None:
        """
        See `Signer`.
        """
        if isinstance(terms.ip_range, ipaddress.IPv6Network):
            raise _lacks("an IPv6 range", "CloudFront's policies hold IPv4 only")

    async def sign(self, key: str, terms: Terms, expires: int) -> str:
        """
        See `Signer`.
        """
        url = f"https://{self._domain}/{key}"
        if terms.disposition:
            url += f"?response-content-disposition={quote(terms.disposition, safe='')}"
        moment = datetime.fromtimestamp(expires, UTC)
        if terms.ip_range is None and not key.endswith("*"):
            return str(self._signer.generate_presigned_url(url, date_less_than=moment))
        ip_range = str(terms.ip_range) if terms.ip_range is not None else None
        policy = self._signer.build_policy(url, moment, ip_address=ip_range)
        return str(self._signer.generate_presigned_url(url, policy=policy))

    async def close(self) -> None:
        """
        See `Signer`.
        """

    def _rsa(self, message: bytes) -> bytes:
        return self._private_key.sign(message, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - CloudFront's choice


class Links:
    """
    Gives addresses of assets and versions.

    Args:
        database: what is known of the assets.
        signer: of the addresses.
        shares: makes what a version's address leads to.
    """

    def __init__(self, database: Database, signer: Signer, shares: Shares) -> None:
        self._database, self._signer, self._shares = database, signer, shares

    async def asset(self, sha256: str, terms: Terms) -> Signed:
        """
        Raises:
            Missing: there is no such asset.
            FailedPrecondition: the signer cannot do it (SIGNER_LACKS).
        """
        self._signer.check(terms)
        rows = await self._database.fetch(_PRIVATE, sha256)
        if not rows:
            raise Missing("ASSET_NOT_FOUND", asset_name(sha256))
        key = f"private/{sha256}" if rows[0]["private"] else asset_name(sha256)
        return await self._sign(key, terms)

    async def version(self, owner: str, terms: Terms) -> Signed:
        """
        An address that ends in a *, which stands for any digest of a file of the version.

        Raises:
            NotFound: the version pins nothing.
            FailedPrecondition: the signer cannot do it (SIGNER_LACKS).
        """
        self._signer.check(terms)
        if not self._signer.signs_prefixes:
            raise _lacks("all files of a version at once")
        await self._shares.make(owner, datetime.now(UTC) + timedelta(seconds=terms.seconds))
        return await self._sign(f"{share_prefix(owner)}*", terms)

    async def _sign(self, key: str, terms: Terms) -> Signed:
        # Whole seconds, as in the address: what we say is never later than what it does.
        expires = int(time.time()) + terms.seconds
        url = await self._signer.sign(key, terms, expires)
        return Signed(url, datetime.fromtimestamp(expires, UTC))


def _lacks(what: str, why: str = "it needs CloudFront, which is not set up here") -> FailedPrecondition:
    return FailedPrecondition("SIGNER_LACKS", f"{what} cannot be signed: {why}")
