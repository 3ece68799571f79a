"""
The registry: `python -m services.registry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

from modelyard.contracts import permissions, public_services, scopes
from services.chassis.access.policies import Policies
from services.chassis.clients.channels import Peer
from services.chassis.interceptors import PermissionInterceptor
from services.chassis.serving.background import beside, every
from services.chassis.serving.server import Server, main
from services.chassis.settings import load
from services.ledger.metrics import DatabaseMetrics
from services.ledger.migrate import migrations
from services.ledger.store.change_feed import ChangeFeed
from services.ledger.store.changelog import Changelog
from services.ledger.store.database import check_schema, connector, open_database
from services.ledger.store.writer import Writer
from services.registry.metrics import PurgeMetrics
from services.registry.migrate import FOLDER
from services.registry.service.assets import Assets
from services.registry.service.pins import Pins, releasing_pins
from services.registry.service.registry import add_servicers
from services.registry.settings import RegistrySettings
from services.registry.store.api_tokens import ApiTokenStore
from services.registry.store.cleanup import PurgeJob, background_cleanup
from services.registry.store.models import ModelStore
from services.registry.store.oci import OciJob
from services.registry.store.pin_releases import PinReleaseStore
from services.registry.store.policies import PolicyStore
from services.registry.store.policy_follower import PolicyFollower
from services.registry.store.purging import Purging
from services.registry.store.search.vocabulary import Vocabulary
from services.registry.store.token_uses import record_uses

#: The NOTIFY channel of the change stream.
CHANNEL = "registry_changes"


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the registry while the block runs.
    """
    settings = load(RegistrySettings)
    policies = Policies()
    server.ask_for(scopes(), PermissionInterceptor(policies, permissions()), policies=policies)
    # The gateway routes reflection to the registry, so it must list every service that the gateway exposes.
    server.describe(public_services())
    async with AsyncExitStack() as stack:
        reached = settings.database("modelyard-registry")
        database = await stack.enter_async_context(open_database(reached))
        await check_schema(database, len(migrations(FOLDER)), "services.registry.migrate")
        log = Changelog(database)
        feed = ChangeFeed(log, connector(reached), CHANNEL)
        await stack.enter_async_context(feed.following(server.draining))
        if server.asks:
            tokens = ApiTokenStore(database)
            follower = PolicyFollower(policies, PolicyStore(database), tokens, feed)
            await stack.enter_async_context(follower.following())
            record = every(1.0, partial(record_uses, policies.tokens, tokens), "record the use of tokens")
            await stack.enter_async_context(beside(record))
            server.health.depends_on("policies", follower.ping)
        writer, purge_after = Writer(database, channel=CHANNEL), timedelta(seconds=settings.purge_after)
        stack.push_async_callback(writer.close)
        purging = Purging(database, writer)
        sweeper = PurgeJob(ModelStore(database), purging, writer)
        await stack.enter_async_context(background_cleanup(log, settings.keep, sweeper, ApiTokenStore(database)))
        forget = every(60.0, Vocabulary(database).forget, "forget words that no model has")
        manifests = every(60.0, OciJob(database, writer).fill, "compute manifests of OCI")
        await stack.enter_async_context(beside(forget, manifests))
        cdn = [Peer(str(each), server.identity) for each in settings.cdn]
        for peer in cdn:
            stack.push_async_callback(peer.close)
        assets = Assets(cdn, settings.service_token())
        pins = Pins(assets, PinReleaseStore(database))
        await stack.enter_async_context(releasing_pins(pins))
        add_servicers(server, database, writer, feed, assets, pins, policies, keep=purge_after)
        server.metrics.registry.register(DatabaseMetrics(database))
        server.metrics.registry.register(PurgeMetrics(sweeper))
        server.health.depends_on("postgresql", database.ping)
        yield


if __name__ == "__main__":
    main("services.registry", compose, settings=RegistrySettings)
