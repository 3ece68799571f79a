"""
The asset service's settings. Only `__main__` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.cdn.store import S3Settings
from services.chassis.settings import CommonSettings, Secret, SettingsError, integer, secret, setting, text, url

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnSettings(CommonSettings):
    """
    Where the bytes are kept, and what moving them may cost.
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
        help="what all uploads of a worker together may hold in memory; more of them wait",
    )

    def s3(self) -> S3Settings:
        """
        The bucket of these settings.

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
