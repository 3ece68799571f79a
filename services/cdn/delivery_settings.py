"""
Settings of delivery over HTTP: presigned URLs, CloudFront, static files. The service's settings derive from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.cdn.model.delivery import TtlBounds
from services.cdn.model.static_files import USUAL_AGE, CacheAges
from services.cdn.store.delivery.cloudfront import CloudFrontSettings
from services.cdn.store.delivery.invalidator import InvalidatorLimits
from services.cdn.store.delivery.signers import CloudFrontKey
from services.chassis.settings import Kind, Secret, SettingsError, integer, seconds, secret, setting, text, url
from services.ledger.settings import LedgerSettings

_WEEK = 7 * 86400
_PATTERN = re.compile(r"\*|[a-z0-9.+_-]+/(?:\*|[a-z0-9.+_-]+)")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
# Pages and data change with every release; the rest of a site mostly stays.
_AGES = CacheAges((("text/html", 300), ("application/json", 300), ("text/*", USUAL_AGE), ("*", USUAL_AGE)))


def ages() -> Kind[CacheAges]:
    """
    A table of max-age by content type.
    """

    def parse(value: str) -> CacheAges:
        found: dict[str, int] = {}
        for part in value.split(","):
            pattern, _, age = part.partition("=")
            if not _PATTERN.fullmatch(pattern.strip()) or not re.fullmatch(r"[0-9]{1,9}", age.strip()):
                raise ValueError(f'"{part.strip()}" is invalid')
            found[pattern.strip()] = int(age)
        return CacheAges(tuple(found.items()))

    return Kind("content type=seconds with commas between them, such as text/html=300,image/*=600,*=600", parse)


def domain() -> Kind[str]:
    """
    The name of a host.
    """

    def parse(value: str) -> str:
        if not _DOMAIN.fullmatch(value):
            raise ValueError("")
        return value

    return Kind("a domain name such as d111111abcdef8.cloudfront.net", parse)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings(LedgerSettings):
    """
    Presigned URLs, their signer, and the CDN.
    """

    s3_public_endpoint: str | None = setting(
        "MODELYARD_S3_PUBLIC_ENDPOINT",
        url("http", "https"),
        default=None,
        help="URL of the object store for clients, used in presigned URLs; unset means the service's own endpoint",
    )
    cloudfront_domain: str | None = setting(
        "MODELYARD_CLOUDFRONT_DOMAIN", domain(), default=None, help="domain of the distribution for signed URLs"
    )
    cloudfront_key_pair: str | None = setting(
        "MODELYARD_CLOUDFRONT_KEY_PAIR_ID",
        text(),
        default=None,
        help="id of the public key, in a key group trusted by the distribution",
    )
    cloudfront_private_key: Secret | None = secret(
        "MODELYARD_CLOUDFRONT_PRIVATE_KEY_FILE", default=None, help="the private key of that key pair: RSA, in PEM"
    )
    cloudfront_distribution: str | None = setting(
        "MODELYARD_CLOUDFRONT_DISTRIBUTION", text(), default=None, help="the id of the distribution to invalidate"
    )
    cloudfront_endpoint: str | None = setting(
        "MODELYARD_CLOUDFRONT_ENDPOINT",
        url("http", "https"),
        default=None,
        help="endpoint of CloudFront's API; unset means AWS",
    )
    cloudfront_access_key: Secret | None = secret(
        "MODELYARD_CLOUDFRONT_ACCESS_KEY_FILE",
        default=None,
        help="access key id for CloudFront's API; unset means AWS's default credential chain",
    )
    cloudfront_secret_key: Secret | None = secret(
        "MODELYARD_CLOUDFRONT_SECRET_KEY_FILE", default=None, help="the secret access key for CloudFront's API"
    )
    signed_url_seconds: int = setting(
        "MODELYARD_SIGNED_URL_SECONDS", integer(1, _WEEK), default=3600, help="default TTL of a presigned URL"
    )
    signed_url_least: int = setting(
        "MODELYARD_SIGNED_URL_LEAST_SECONDS", integer(1, _WEEK), default=60, help="minimum TTL of a presigned URL"
    )
    signed_url_most: int = setting(
        "MODELYARD_SIGNED_URL_MOST_SECONDS",
        integer(1, _WEEK),
        default=_WEEK,
        help="maximum TTL of a presigned URL; S3 allows seven days",
    )
    static_ages: CacheAges = setting(
        "MODELYARD_STATIC_AGES", ages(), default=_AGES, help="max-age of static files by content type"
    )
    invalidation_interval: float = setting(
        "MODELYARD_INVALIDATION_INTERVAL_SECONDS",
        seconds(0, 30),
        default=1.0,
        help="interval between two invalidations of a worker; those queued meanwhile are batched",
    )
    invalidation_poll: float = setting(
        "MODELYARD_INVALIDATION_POLL_SECONDS",
        seconds(0.01, 60),
        default=5.0,
        help="polling interval of an invalidation's state",
    )
    invalidation_attempts: int = setting(
        "MODELYARD_INVALIDATION_ATTEMPTS",
        integer(1, 1000),
        default=12,
        help="consecutive failed calls to CloudFront before an invalidation fails",
    )

    invalidation_pause: float = setting(
        "MODELYARD_INVALIDATION_PAUSE_SECONDS",
        seconds(0.01, 60),
        default=1.0,
        help="delay before a call to CloudFront is retried; doubled each time, up to a minute",
    )

    def ttl_bounds(self) -> TtlBounds:
        """
        Limits of the TTL of presigned URLs.

        Raises:
            SettingsError: the default TTL is not between minimum and maximum.
        """
        if not self.signed_url_least <= self.signed_url_seconds <= self.signed_url_most:
            raise SettingsError(
                ["MODELYARD_SIGNED_URL_SECONDS must be between …_LEAST_SECONDS and …_MOST_SECONDS of the same prefix"]
            )
        return TtlBounds(self.signed_url_seconds, self.signed_url_least, self.signed_url_most)

    def cloudfront_key(self) -> CloudFrontKey | None:
        """
        The key pair for CloudFront's signed URLs; None when S3 presigns.

        Raises:
            SettingsError: some settings are missing, or the key is invalid.
        """
        given = (self.cloudfront_domain, self.cloudfront_key_pair, self.cloudfront_private_key)
        if given == (None, None, None):
            return None
        if not (self.cloudfront_domain and self.cloudfront_key_pair and self.cloudfront_private_key):
            names = "MODELYARD_CLOUDFRONT_DOMAIN, …_KEY_PAIR_ID and …_PRIVATE_KEY_FILE"
            raise SettingsError([f"set all of {names}, or none"])
        key = CloudFrontKey(self.cloudfront_domain, self.cloudfront_key_pair, self.cloudfront_private_key.reveal())
        try:
            key.load()
        except ValueError as error:
            raise SettingsError([f"MODELYARD_CLOUDFRONT_PRIVATE_KEY_FILE: {error}"]) from None
        return key

    def edge(self) -> CloudFrontSettings | None:
        """
        The CloudFront distribution; None if there is none.

        Raises:
            SettingsError: one of the two keys is given without the other.
        """
        access_key, secret_key = self.cloudfront_access_key, self.cloudfront_secret_key
        if (access_key is None) != (secret_key is None):
            names = "MODELYARD_CLOUDFRONT_ACCESS_KEY_FILE and MODELYARD_CLOUDFRONT_SECRET_KEY_FILE"
            raise SettingsError([f"set both {names}, or neither"])
        if self.cloudfront_distribution is None:
            return None
        return CloudFrontSettings(
            self.cloudfront_distribution,
            self.cloudfront_endpoint,
            access_key.reveal() if access_key else None,
            secret_key.reveal() if secret_key else None,
        )

    def pace(self) -> InvalidatorLimits:
        """
        Rate limits and retries of calls to CloudFront.
        """
        return InvalidatorLimits(
            interval=self.invalidation_interval,
            poll=self.invalidation_poll,
            attempts=self.invalidation_attempts,
            pause=self.invalidation_pause,
            idle=min(1.0, self.invalidation_poll),
        )
