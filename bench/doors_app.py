"""
The doors' application alone, for servers that are compared: `uvicorn bench.doors_app:app`. The targets of the other
services come from the environment, as those of the doors do.
"""

from __future__ import annotations

import os
from functools import cache

from services.chassis.serving.http_calls import AsgiApp, Receive, Scope, Send
from services.doors.app import application
from services.doors.service.doors import Doors
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """
    The application, for an ASGI server without lifespan.
    """
    await _made()(scope, receive, send)


@cache
def _made() -> AsgiApp:
    # With the first request: channels belong to the event loop that is running, and servers import before theirs is.
    suite = Suite(_targets("REGISTRY"), _targets("CACHE"), _targets("CDN"))
    return application(Doors(suite, Registry(suite), None))


def _targets(name: str) -> list[str]:
    return os.environ[f"MODELYARD_{name}_TARGET"].split(",")
