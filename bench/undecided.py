"""
The cache without decisions by policies: `make bench-access` compares the cache with it.

`python -m bench.undecided`, with the settings of the cache. Tokens and scopes are checked as usual; whatever is cached
is served to every caller whose token has the scope, as before there were policies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from services.cache import __main__ as cache
from services.cache.read_through.origin import Answer, Origin
from services.cache.settings import CacheSettings
from services.chassis.interceptors.permissions import VISIBILITY
from services.chassis.serving.server import Server, main


class _Undecided(Origin):
    """
    An origin whose answers are for everybody.
    """

    async def call(self, *args: Any) -> Answer:
        answer = await super().call(*args)
        return replace(answer, trailing=tuple(pair for pair in answer.trailing if pair[0] != VISIBILITY))


def _nothing(*_args: Any) -> None:
    return None


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    The cache's, which the workers import from here: what is replaced in the process that starts them is not replaced in
    them.
    """
    vars(cache).update(Visibility=_nothing, AssetVisibility=_nothing, Origin=_Undecided)
    async with cache.compose(server):
        yield


if __name__ == "__main__":
    main("services.cache", compose, settings=CacheSettings)
