"""
The asset service's settings. Only `__main__` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from services.cdn.delivery_settings import DeliverySettings
from services.cdn.model import MOST_STREAM
from services.cdn.service.upload_streams import StreamLimits
from services.cdn.store.assets import Limits
from services.cdn.store.maintenance import Schedule
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.store.retention.garbage_collection import GracePeriods
from services.cdn.store.uploads.sessions import UploadLimits
from services.chassis.settings import (
    Address,
    Secret,
    SettingsError,
    addresses,
    integer,
    seconds,
    secret,
    setting,
    text,
    url,
)

_MIB = 1024 * 1024
_DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnSettings(DeliverySettings):
    """
    Storage and resource limits of the asset service.
    """

    bucket: str = setting("MODELYARD_S3_BUCKET", text(), help="the bucket that holds the assets; it must exist")
    region: str = setting("MODELYARD_S3_REGION", text(), default="us-east-1", help="the region of the bucket")
    endpoint: str | None = setting(
        "MODELYARD_S3_ENDPOINT", url("http", "https"), default=None, help="an S3-compatible server; unset means AWS"
    )
    access_key: Secret | None = secret(
        "MODELYARD_S3_ACCESS_KEY_FILE", default=None, help="the access key's id; unset means AWS's usual chain"
    )
    secret_key: Secret | None = secret("MODELYARD_S3_SECRET_KEY_FILE", default=None, help="the secret access key")
    upload_memory: int = setting(
        "MODELYARD_UPLOAD_MEMORY_BYTES",
        integer(32 * _MIB, 1 << 40),
        default=256 * _MIB,
        help="memory for all uploads of a worker; further uploads wait",
    )
    upload_idle: float = setting(
        "MODELYARD_UPLOAD_IDLE_SECONDS",
        seconds(1, _DAY),
        default=60.0,
        help="idle timeout of an upload's stream",
    )
    upload_memory_each: int = setting(
        "MODELYARD_UPLOAD_MEMORY_PER_CLIENT_BYTES",
        integer(24 * _MIB, 1 << 40),
        default=128 * _MIB,
        help="memory for the uploads of one client (subject of the token, or address while access control is off)",
    )
    upload_least_rate: int = setting(
        "MODELYARD_UPLOAD_LEAST_BYTES_PER_SECOND",
        integer(0, 1 << 30),
        default=16 * 1024,
        help="minimum rate of an upload's stream, averaged over the idle timeout; 0 for none",
    )
    upload_lease: float = setting(
        "MODELYARD_UPLOAD_LEASE_SECONDS",
        seconds(0.1, 3600),
        default=15.0,
        help="lease of an upload's writer; after it, another stream may resume the upload",
    )

    least_compressed: int = setting(
        "MODELYARD_COMPRESS_LEAST_BYTES",
        integer(0, 1 << 30),
        default=1024,
        help="minimum size of text that is also stored compressed",
    )
    most_compressed: int = setting(
        "MODELYARD_COMPRESS_MOST_BYTES",
        integer(0, 1 << 30),
        default=32 * _MIB,
        help="maximum size of text that is also stored compressed (in memory)",
    )
    upload_ttl: float = setting(
        "MODELYARD_UPLOAD_TTL_SECONDS",
        seconds(1, 30 * _DAY),
        default=_DAY,
        help="TTL of an inactive upload",
    )
    most_uploads: int = setting(
        "MODELYARD_UPLOADS_MOST",
        integer(1, 1_000_000),
        default=10_000,
        help="maximum number of open uploads with bytes",
    )
    most_uploads_each: int = setting(
        "MODELYARD_UPLOADS_MOST_PER_CLIENT",
        integer(1, 1_000_000),
        default=1_000,
        help="maximum number of open uploads per client (subject of the token, or address while access control is off)",
    )
    registry: tuple[Address, ...] = setting(
        "MODELYARD_REGISTRY_TARGET",
        addresses(),
        default=(),
        help="the registry's workers: host:port, comma-separated; required while access control is on",
    )
    owner_quota: int = setting(
        "MODELYARD_OWNER_QUOTA_BYTES",
        integer(0, 1 << 60),
        default=0,
        help="quota of one version or static file; 0 for no limit",
    )
    collect_grace: float = setting(
        "MODELYARD_COLLECT_GRACE_SECONDS",
        seconds(0, 3650 * _DAY),
        default=7 * _DAY,
        help="grace period of an unpinned asset",
    )
    collect_grace_least: float = setting(
        "MODELYARD_COLLECT_GRACE_LEAST_SECONDS",
        seconds(0, 3650 * _DAY),
        default=3600.0,
        help="shortest grace period that a CollectGarbage call may request",
    )
    collect_delay: float = setting(
        "MODELYARD_COLLECT_DELAY_SECONDS",
        seconds(0, 365 * _DAY),
        default=3600.0,
        help="delay before the bytes of a condemned asset are deleted, for downloads in progress",
    )
    collect_every: float = setting(
        "MODELYARD_COLLECT_EVERY_SECONDS",
        seconds(0, 365 * _DAY),
        default=3600.0,
        help="interval of garbage collection; 0 to disable",
    )
    sweep_every: float = setting(
        "MODELYARD_SWEEP_EVERY_SECONDS",
        seconds(0.1, _DAY),
        default=60.0,
        help="interval of the checks for expired uploads",
    )

    def registry_workers(self) -> tuple[Address, ...]:
        """
        The registry's workers, whose policies are followed.

        Raises:
            SettingsError: there are none: nothing could be decided.
        """
        if not self.registry:
            raise SettingsError([f"with MODELYARD_ACCESS={self.access}, MODELYARD_REGISTRY_TARGET must be set"])
        return self.registry

    def bounds(self) -> UploadLimits:
        """
        Limits of upload sessions.
        """
        ttl, lease = timedelta(seconds=self.upload_ttl), timedelta(seconds=self.upload_lease)
        return UploadLimits(ttl, self.most_uploads, self.most_uploads_each, lease)

    def patience(self) -> StreamLimits:
        """
        Limits for slow streams.
        """
        return StreamLimits(self.upload_idle, self.upload_least_rate)

    def limits(self) -> Limits:
        """
        Resource limits of transfers.

        Raises:
            SettingsError: the minimum exceeds the maximum size of compressed text.
        """
        if 0 < self.most_compressed < self.least_compressed:
            raise SettingsError(
                ["MODELYARD_COMPRESS_LEAST_BYTES must be at most MODELYARD_COMPRESS_MOST_BYTES, unless that is 0"]
            )
        return Limits(self.upload_memory, self.least_compressed, self.most_compressed, self.upload_memory_each)

    def grace(self) -> GracePeriods:
        """
        Grace periods of the garbage collection.
        """
        times = (self.collect_grace, self.collect_delay, self.collect_grace_least)
        return GracePeriods(*(timedelta(seconds=each) for each in times))

    def schedule(self) -> Schedule:
        """
        Intervals of the periodic jobs. A multipart upload without a session counts as orphaned after twice the maximum
        duration of a stream; copies take less.
        """
        return Schedule(self.sweep_every, self.collect_every, 2 * MOST_STREAM, self.keep)

    def s3(self) -> S3Settings:
        """
        Bucket and credentials.

        Raises:
            SettingsError: one of the two keys is given without the other.
        """
        if (self.access_key is None) != (self.secret_key is None):
            raise SettingsError(["set both MODELYARD_S3_ACCESS_KEY_FILE and MODELYARD_S3_SECRET_KEY_FILE, or neither"])
        return S3Settings(
            bucket=self.bucket,
            region=self.region,
            endpoint=self.endpoint,
            access_key=self.access_key.reveal() if self.access_key else None,
            secret_key=self.secret_key.reveal() if self.secret_key else None,
        )
