"""
The registry: `python -m services.registry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import grpc

from services.chassis.server import Server, main
from services.chassis.settings import load
from services.registry.metrics import DatabaseMetrics
from services.registry.migrate import migrations
from services.registry.service.registry import add_servicers
from services.registry.settings import RegistrySettings
from services.registry.store.changelog import Changelog
from services.registry.store.database import check_schema, connector, open_database
from services.registry.store.feed import ChangeFeed
from services.registry.store.grouping import Writer
from services.registry.store.models import ModelStore
from services.registry.store.sweeping import sweeping


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the registry for as long as the block lasts.
    """
    settings = load(RegistrySettings)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database()))
        await check_schema(database, newest=len(migrations()))
        log = Changelog(database)
        feed = ChangeFeed(log, connector(settings.database()))
        await stack.enter_async_context(feed.following(server.draining))
        writer, purge_after = Writer(database), timedelta(seconds=settings.purge_after)
        stack.push_async_callback(writer.close)
        await stack.enter_async_context(sweeping(log, settings.keep, ModelStore(database), writer))
        cdn = [await stack.enter_async_context(grpc.aio.insecure_channel(str(each))) for each in settings.cdn]
        add_servicers(server, database, writer, feed, cdn, keep=purge_after)
        server.metrics.registry.register(DatabaseMetrics(database))
        server.health.depends_on("postgresql", database.ping)
        yield


if __name__ == "__main__":
    main("services.registry", compose, settings=RegistrySettings)
