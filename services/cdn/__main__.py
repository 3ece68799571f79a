# ruff: noqa: RUF009 - `setting` makes a dataclass field, as `field` does
"""
The asset service: `python -m services.cdn`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from modelyard.cdn.v1.assets_pb2_grpc import add_AssetServiceServicer_to_server
from services.cdn.service import AssetService
from services.cdn.store import S3Settings, open_assets
from services.chassis.server import Server, main
from services.chassis.settings import CommonSettings, Secret, SettingsError, integer, load, secret, setting, text, url


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnSettings(CommonSettings):
    """
    Where the bytes are kept.
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
        integer(32 << 20, 1 << 40),
        default=256 << 20,
        help="what all uploads together may hold in memory; more of them wait",
    )


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve AssetService for as long as the block lasts.
    """
    settings = load(CdnSettings)
    s3 = S3Settings(settings.bucket, settings.region, settings.endpoint, *keys_of(settings))
    async with open_assets(s3, upload_memory=settings.upload_memory) as assets:
        # The methods that it lacks answer UNIMPLEMENTED.
        server.add(add_AssetServiceServicer_to_server, AssetService(assets))  # type: ignore[abstract]
        server.health.depends_on("s3", assets.ping)
        yield


def keys_of(settings: CdnSettings) -> list[str | None]:
    """
    The two keys, or None twice.
    """
    keys = [key.reveal() if key else None for key in (settings.access_key, settings.secret_key)]
    if any(keys) and not all(keys):
        raise SettingsError(["set both MODELYARD_S3_ACCESS_KEY_FILE and MODELYARD_S3_SECRET_KEY_FILE, or neither"])
    return keys


if __name__ == "__main__":
    main("services.cdn", compose, settings=CdnSettings)
