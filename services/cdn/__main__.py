"""
The asset service: `python -m services.cdn`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelyard.cdn.v1.assets_pb2_grpc import add_AssetServiceServicer_to_server
from services.cdn.service import AssetService
from services.cdn.settings import CdnSettings
from services.cdn.store import open_assets
from services.chassis.server import Server, main
from services.chassis.settings import load


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve AssetService for as long as the block lasts.
    """
    settings = load(CdnSettings)
    async with open_assets(settings.s3(), upload_memory=settings.upload_memory) as assets:
        # The methods that it lacks answer UNIMPLEMENTED.
        server.add(add_AssetServiceServicer_to_server, AssetService(assets))  # type: ignore[abstract]
        server.health.depends_on("s3", assets.ping)
        yield


if __name__ == "__main__":
    main("services.cdn", compose, settings=CdnSettings)
