"""
The cache without decisions by policies: `make bench-access` compares the cache with it.

`python -m bench.undecided`, with the settings of the cache. Tokens and scopes are checked as usual; whatever is cached
is served to every caller whose token has the scope, as before there were policies.
"""

from __future__ import annotations

from typing import Any

from services.cache import __main__ as cache
from services.cache.settings import CacheSettings
from services.chassis.serving.server import main


def _undecided(*_args: Any) -> None:
    return None


if __name__ == "__main__":
    vars(cache)["Visibility"] = _undecided
    main("services.cache", cache.compose, settings=CacheSettings)
