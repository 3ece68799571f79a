"""
One circuit breaker for each server of a cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from services.cache.store.breaker import Breaker

# From the worst on.
_STATES = ("open", "half-open", "closed")


class Breakers:
    """
    A server that is dead is left alone, and keeps nobody from the others.

    Args:
        trial: asks the server that has a key; it raises when it does not answer.
    """

    def __init__(self, trial: Callable[[bytes], Awaitable[object]]) -> None:
        self._trial = trial
        self._found: dict[str, Breaker] = {}

    def of(self, shard: str, key: bytes) -> Breaker:
        """
        The breaker of a server.

        Args:
            shard: the server's name.
            key: one that it has. When the server's slots go to another, that one is tried with it, too.
        """
        found = self._found.get(shard)
        if found is None:
            found = self._found[shard] = Breaker(partial(self._trial, key))
        return found

    @property
    def closed(self) -> bool:
        """
        Whether calls go through to all of them.
        """
        return all(each.closed for each in self._found.values())

    @property
    def state(self) -> str:
        """
        That of the one that is worst: open, half-open, closed.
        """
        return worst(each.state for each in self._found.values())

    @property
    def opened(self) -> int:
        """
        How often one has opened.
        """
        return sum(each.opened for each in self._found.values())

    async def close(self) -> None:
        """
        End the trials.
        """
        for each in self._found.values():
            await each.close()


def worst(states: Iterable[str]) -> str:
    """
    The state that is worst, of those that `Breaker` has.
    """
    return min(states, key=_STATES.index, default="closed")
