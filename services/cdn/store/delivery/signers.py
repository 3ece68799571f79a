"""
Signers of presigned URLs: S3 (Signature Version 4 in the query) and CloudFront (RSA).
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol
from urllib.parse import quote

from botocore.signers import CloudFrontSigner as PolicySigner
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from services.cdn.model import is_private
from services.cdn.model.delivery import Terms
from services.cdn.store.objects.bucket import cache_control
from services.cdn.store.objects.s3 import S3Executor, S3Settings
from services.chassis.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class CloudFrontKey:
    """
    The key pair for CloudFront's signed URLs.

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
            # The original message could quote the key.
            raise ValueError("this is not a private key in PEM without a passphrase") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("this is not an RSA key")
        return key


class Signer(Protocol):
    """
    Presigns URLs.
    """

    #: Whether it can sign a key prefix with a wildcard.
    signs_prefixes: bool

    def check(self, terms: Terms) -> None:
        """
        Raises:
            FailedPrecondition: it does not support these terms (SIGNER_LACKS).
        """

    async def sign(self, key: str, terms: Terms, expires: int) -> str:
        """
        Presign a URL for the object *key*, or for a prefix if *key* ends in a wildcard.

        Args:
            expires: Unix time in seconds.
        """

    async def close(self) -> None:
        """
        Stop its threads, if any.
        """


class S3Signer:
    """
    Presigns URLs of the bucket. With temporary credentials, a URL expires no later than these.

    Args:
        settings: bucket and credentials.
        public_endpoint: the object store's URL for clients, if it differs from that of this service.
    """

    signs_prefixes = False

    def __init__(self, settings: S3Settings, public_endpoint: str | None) -> None:
        self._bucket = settings.bucket
        reached = replace(settings, endpoint=public_endpoint or settings.endpoint)
        # Presigning is local, but fetching the credentials of an instance role is not.
        self._lane = S3Executor(reached, "s3-sign", threads=2, connect=1, read=5, attempts=2)

    def check(self, terms: Terms) -> None:
        """
        See `Signer`.
        """
        if terms.ip_range is not None:
            raise unsupported("an IP range")

    async def sign(self, key: str, terms: Terms, expires: int) -> str:
        """
        See `Signer`. Signature Version 4: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters".
        """
        params = {"Bucket": self._bucket, "Key": key}
        if terms.disposition:
            params["ResponseContentDisposition"] = terms.disposition
        if is_private(key):
            # Overrides the header of objects that an earlier release stored as public.
            params["ResponseCacheControl"] = cache_control(key)
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
    Signs URLs of a distribution.

    CloudFront Developer Guide, "Create a signed URL using a canned policy" and "… using a custom policy": RSA with
    SHA-1 (PKCS #1 v1.5) over the policy. A canned policy is short and holds only the expiry; a custom one supports
    an IP range and a wildcard in the resource.

    Raises:
        ValueError: the private key is invalid.
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
            raise unsupported("an IPv6 range", "CloudFront's policies hold IPv4 only")

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


def unsupported(what: str, why: str = "it needs CloudFront, which is not set up here") -> FailedPrecondition:
    """
    The error for terms that a signer does not support.
    """
    return FailedPrecondition("SIGNER_LACKS", f"{what} cannot be signed: {why}")
