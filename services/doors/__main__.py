"""
The doors: `python -m services.doors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.serving.server import Server, main
from services.chassis.settings import load
from services.doors.app import application
from services.doors.service.doors import Doors
from services.doors.settings import DoorsSettings
from services.doors.store.recent import Recent
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the doors while the block lasts, with the settings of the environment.
    """
    settings = load(DoorsSettings)
    suite = Suite(
        settings.registry_targets(),
        settings.cache_targets(),
        settings.cdn_targets(),
        server.identity,
        settings.call_seconds,
    )
    try:
        doors = Doors(
            suite=suite,
            registry=Registry(suite),
            verifier=server.verifier,
            namespace=settings.default_namespace,
            recent=Recent(settings.manifest_bytes),
            public_url=settings.public_url,
        )
        server.health.depends_on("registry", suite.ping)
        server.serve_http("modelyard.doors", application(doors))
        yield
    finally:
        await suite.close()


if __name__ == "__main__":
    main("services.doors", compose, settings=DoorsSettings, http=True)
