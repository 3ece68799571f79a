"""
A cache that tracks only few tags, so that its table of touched tags overflows all the time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from unittest import mock

from services.cache import __main__ as cache
from services.cache.model.coherence import Coherence
from services.cache.settings import CacheSettings
from services.cache.tests.schedules.fleet import small
from services.chassis.serving.server import Server, main


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Compose the cache with a small table.
    """
    few: Any = small()
    with mock.patch.object(cache, "Coherence", partial(Coherence, **few)):
        async with cache.compose(server):
            yield


if __name__ == "__main__":
    main("services.cache", compose, settings=CacheSettings)
