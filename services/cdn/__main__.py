"""
The asset service: `python -m services.cdn`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from modelyard.cdn.v1.assets_pb2_grpc import add_AssetServiceServicer_to_server
from modelyard.cdn.v1.changes_pb2_grpc import add_ChangeServiceServicer_to_server
from modelyard.cdn.v1.uploads_pb2_grpc import add_UploadServiceServicer_to_server
from modelyard.contracts import scopes
from services.authorization.follower import PolicyFollower
from services.cdn.delivery import CHANNEL, serve_delivery
from services.cdn.metrics import StoreMetrics
from services.cdn.migrate import FOLDER
from services.cdn.service import authorization
from services.cdn.service.assets import AssetService
from services.cdn.service.changes import ChangeService
from services.cdn.service.registration import Registration
from services.cdn.service.rights import Rights
from services.cdn.service.uploads import UploadService
from services.cdn.settings import CdnSettings
from services.cdn.store.assets import open_assets
from services.cdn.store.maintenance import Maintenance
from services.cdn.store.objects.s3 import traffic
from services.cdn.store.records import Records
from services.cdn.store.retention.garbage_collection import GarbageCollector
from services.cdn.store.retention.pins import Pins
from services.cdn.store.uploads.completion import UploadCompleter
from services.cdn.store.uploads.sessions import UploadSessions
from services.chassis.access.policies import Policies
from services.chassis.clients.channels import Peer
from services.chassis.errors import Unavailable
from services.chassis.serving.server import Server, main
from services.chassis.settings import load
from services.ledger.metrics import DatabaseMetrics
from services.ledger.migrate import migrations
from services.ledger.service.calls import Mutations
from services.ledger.store.change_feed import ChangeFeed
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import check_schema, connector, open_database
from services.ledger.store.writer import Writer


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the asset service while the block lasts, with the settings of the environment.
    """
    async with composed(server, load(CdnSettings)):
        yield


@asynccontextmanager
async def composed(server: Server, settings: CdnSettings) -> AsyncIterator[None]:
    """
    Serve the asset service while the block lasts.
    """
    policies = Policies()
    server.ask_for(
        {**scopes(), authorization.PATH: authorization.SCOPE},
        policies=policies,
        rejections={authorization.PATH: authorization.rejected},
    )
    reached, bucket = settings.database("modelyard-cdn"), settings.s3()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(reached))
        await check_schema(database, len(migrations(FOLDER)), "services.cdn.migrate")
        log, writer = Changelog(database), Writer(database, channel=CHANNEL)
        feed = ChangeFeed(log, connector(reached), CHANNEL)
        await stack.enter_async_context(feed.following(server.draining))
        stack.push_async_callback(writer.close)

        if server.asks:
            # API tokens are decided by what is followed, too.
            peers = [Peer(str(each), server.identity) for each in settings.registry_workers()]
            for peer in peers:
                stack.push_async_callback(peer.close)
            turns = itertools.cycle(peers)
            follower = PolicyFollower(lambda: next(turns).channel(), settings.service_token(), policies)
            await stack.enter_async_context(follower.following())
            # Ready without the registry, after a while: calls that need a decision are refused until it answers.
            with suppress(Unavailable):
                await policies.reach(1)
        records, pins, rights = Records(database), Pins(database, settings.owner_quota), Rights(policies)
        assets = await stack.enter_async_context(
            open_assets(bucket, records, settings.limits(), settings.s3_public_endpoint)
        )
        uploads = UploadSessions(database, settings.bounds())
        completer, collection = (
            UploadCompleter(assets, records, uploads),
            GarbageCollector(database, writer, assets.bucket),
        )
        grace, schedule = settings.grace(), settings.schedule()
        remove_version_copies = await stack.enter_async_context(
            serve_delivery(server, settings, bucket, database, records, pins, rights)
        )
        maintenance = Maintenance(
            assets.bucket, uploads, completer, collection, remove_version_copies, log, grace, schedule
        )
        await stack.enter_async_context(maintenance.running())

        mutations = Mutations(writer)
        registration = Registration(records, pins, mutations, rights)
        patience = settings.patience()
        service = AssetService(assets, records, pins, collection, registration, mutations, rights, grace, patience)
        resumable = UploadService(assets, records, uploads, completer, registration, rights, patience)
        server.add(add_AssetServiceServicer_to_server, service)
        server.add(add_UploadServiceServicer_to_server, resumable)
        server.add(add_ChangeServiceServicer_to_server, ChangeService(feed, rights))
        server.metrics.registry.register(DatabaseMetrics(database))
        server.metrics.registry.register(StoreMetrics(traffic()))
        server.health.depends_on("s3", assets.ping)
        server.health.depends_on("postgresql", database.ping)
        yield


if __name__ == "__main__":
    main("services.cdn", compose, settings=CdnSettings)
