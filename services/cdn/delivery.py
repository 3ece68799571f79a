"""
Composes DeliveryService and its background jobs, for `__main__`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from modelyard.cdn.v1.delivery_pb2_grpc import add_DeliveryServiceServicer_to_server
from services.cdn.delivery_settings import DeliverySettings
from services.cdn.service import authorization
from services.cdn.service.authorization import Authorization
from services.cdn.service.delivery import DeliveryService
from services.cdn.service.rights import Rights
from services.cdn.store.delivery.cloudfront import CloudFront
from services.cdn.store.delivery.invalidations import InvalidationStore
from services.cdn.store.delivery.invalidator import invalidating
from services.cdn.store.delivery.presigned_urls import PresignedUrls
from services.cdn.store.delivery.repair import StaticFileRepairer, repairing
from services.cdn.store.delivery.signers import CloudFrontSigner, S3Signer
from services.cdn.store.delivery.static_files import StaticFileStore
from services.cdn.store.delivery.static_objects import StaticObjects
from services.cdn.store.delivery.version_copies import VersionCopies, remove_version_copies
from services.cdn.store.objects.copier import Copier
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.store.records import Records
from services.cdn.store.retention.pins import Pins
from services.chassis.serving.server import Server
from services.ledger.service.calls import Mutations
from services.ledger.store.database import Database
from services.ledger.store.writer import Writer

#: Channel of the change notifications.
CHANNEL = "cdn_changes"
# Each write of a static file holds a connection, and needs a second one for its repair mark.
_OF_POOL = 4


@asynccontextmanager
async def serve_delivery(
    server: Server,
    settings: DeliverySettings,
    s3: S3Settings,
    database: Database,
    records: Records,
    pins: Pins,
    rights: Rights,
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """
    Serve DeliveryService and the gateway's authorization of bytes, and run its background jobs while the block lasts.

    Returns:
        A function that deletes obsolete copies of shared versions (see `remove_version_copies`).
    """
    edge_settings, key = settings.edge(), settings.cloudfront_key()
    has_edge = edge_settings is not None
    async with AsyncExitStack() as stack:
        # Separate thread pools: copying a version must not block static files.
        copier, sharer = Copier(s3), Copier(s3)
        stack.push_async_callback(copier.close)
        stack.push_async_callback(sharer.close)
        signer = CloudFrontSigner(key) if key else S3Signer(s3, settings.s3_public_endpoint)
        stack.push_async_callback(signer.close)
        if edge_settings is not None:
            edge = CloudFront(edge_settings)
            stack.push_async_callback(edge.close)
            await stack.enter_async_context(invalidating(database, edge, settings.pace()))
        objects = StaticObjects(copier, settings.static_ages)
        await stack.enter_async_context(repairing(StaticFileRepairer(database, objects, has_edge=has_edge)))
        # A separate writer, since writes of static files wait for the object store and must not block others. No group
        # commit (see pins.py), and few at a time, so that connections are left for everything else.
        most = max(2, settings.pool_max // _OF_POOL)
        writer = Writer(database, most_together=1, in_flight=most, channel=CHANNEL)
        stack.push_async_callback(writer.close)
        quick = Writer(database, channel=CHANNEL)
        stack.push_async_callback(quick.close)
        static_files = StaticFileStore(database, objects, pins, has_edge=has_edge)
        service = DeliveryService(
            static_files,
            PresignedUrls(database, signer, VersionCopies(database, sharer)),
            settings.ttl_bounds(),
            InvalidationStore(database),
            Mutations(writer),
            Mutations(quick),
            rights,
            has_edge=has_edge,
        )
        server.add(add_DeliveryServiceServicer_to_server, service)
        server.add_methods(authorization.SERVICE, Authorization(rights, records, static_files).handlers())
        yield partial(remove_version_copies, database, sharer)
