"""
The settings of how bytes reach readers over HTTP. The service's own settings derive from them.
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
    A table of content types.
    """

    def parse(value: str) -> CacheAges:
        found: dict[str, int] = {}
        for part in value.split(","):
            pattern, _, age = part.partition("=")
            if not _PATTERN.fullmatch(pattern.strip()) or not re.fullmatch(r"[0-9]{1,9}", age.strip()):
                raise ValueError(f'"{part.strip()}" is not that')
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
    Addresses, who signs them, and the edge in front.
    """

    s3_public_endpoint: str | None = setting(
        "MODELYARD_S3_PUBLIC_ENDPOINT",
        url("http", "https"),
        default=None,
        help="where clients reach the object store: in presigned URLs, those of parts, too; unset means as we do",
    )
    cloudfront_domain: str | None = setting(
        "MODELYARD_CLOUDFRONT_DOMAIN", domain(), default=None, help="of the distribution that signed URLs go to"
    )
    cloudfront_key_pair: str | None = setting(
        "MODELYARD_CLOUDFRONT_KEY_PAIR_ID",
        text(),
        default=None,
        help="the id of the public key, in a key group that the distribution trusts",
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
        help="another server of CloudFront's API; unset means AWS",
    )
    cloudfront_access_key: Secret | None = secret(
        "MODELYARD_CLOUDFRONT_ACCESS_KEY_FILE",
        default=None,
        help="the id of the access key for CloudFront's API; unset means AWS's usual chain",
    )
    cloudfront_secret_key: Secret | None = secret(
        "MODELYARD_CLOUDFRONT_SECRET_KEY_FILE", default=None, help="the secret access key for CloudFront's API"
    )
    signed_url_seconds: int = setting(
        "MODELYARD_SIGNED_URL_SECONDS", integer(1, _WEEK), default=3600, help="how long a signed URL gives access"
    )
    signed_url_least: int = setting(
        "MODELYARD_SIGNED_URL_LEAST_SECONDS", integer(1, _WEEK), default=60, help="the shortest time to ask for"
    )
    signed_url_most: int = setting(
        "MODELYARD_SIGNED_URL_MOST_SECONDS",
        integer(1, _WEEK),
        default=_WEEK,
        help="the longest time to ask for; S3 signs for seven days at most",
    )
    static_ages: CacheAges = setting(
        "MODELYARD_STATIC_AGES", ages(), default=_AGES, help="how long static files may be cached, by content type"
    )
    invalidation_interval: float = setting(
        "MODELYARD_INVALIDATION_INTERVAL_SECONDS",
        seconds(0, 30),
        default=1.0,
        help="between two invalidations that a worker sends; what comes meanwhile goes together",
    )
    invalidation_poll: float = setting(
        "MODELYARD_INVALIDATION_POLL_SECONDS",
        seconds(0.01, 60),
        default=5.0,
        help="until CloudFront is asked whether an invalidation is complete",
    )
    invalidation_attempts: int = setting(
        "MODELYARD_INVALIDATION_ATTEMPTS",
        integer(1, 1000),
        default=12,
        help="how often in a row CloudFront may not answer before an invalidation fails",
    )

    invalidation_pause: float = setting(
        "MODELYARD_INVALIDATION_PAUSE_SECONDS",
        seconds(0.01, 60),
        default=1.0,
        help="before CloudFront is asked again after trouble; doubled each time, up to a minute",
    )

    def lives(self) -> TtlBounds:
        """
        How long signed addresses may give access.

        Raises:
            SettingsError: the bounds are the wrong way round, or the usual time is outside of them.
        """
        if not self.signed_url_least <= self.signed_url_seconds <= self.signed_url_most:
            raise SettingsError(
                ["MODELYARD_SIGNED_URL_SECONDS must be from …_LEAST_SECONDS to …_MOST_SECONDS of the same name"]
            )
        return TtlBounds(self.signed_url_seconds, self.signed_url_least, self.signed_url_most)

    def cloudfront_key(self) -> CloudFrontKey | None:
        """
        What CloudFront knows us by; None when S3 is to sign.

        Raises:
            SettingsError: only some of it is given, or the key is not one.
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
        The distribution in front; None when there is none.

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
        How hard CloudFront is asked.
        """
        return InvalidatorLimits(
            interval=self.invalidation_interval,
            poll=self.invalidation_poll,
            attempts=self.invalidation_attempts,
            pause=self.invalidation_pause,
            idle=min(1.0, self.invalidation_poll),
        )
