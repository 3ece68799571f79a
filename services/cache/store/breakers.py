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
    Circuit breakers by server: a dead server does not affect calls to the others.

    Args:
        trial: probes the server that holds a key; raises when it does not answer.
    """

    def __init__(self, trial: Callable[[bytes], Awaitable[object]]) -> None:
        self._trial = trial
        self._found: dict[str, Breaker] = {}

    def of(self, shard: str, key: bytes) -> Breaker:
        """
        The breaker of a server.

        Args:
            shard: the server's name.
            key: one that it holds. When its slots move to another server, the probe follows.
        """
        found = self._found.get(shard)
        if found is None:
            found = self._found[shard] = Breaker(partial(self._trial, key))
        return found

    @property
    def closed(self) -> bool:
        """
        Whether all are closed.
        """
        return all(each.closed for each in self._found.values())

    @property
    def state(self) -> str:
        """
        The worst state: open, half-open or closed.
        """
        return worst(each.state for each in self._found.values())

    @property
    def opened(self) -> int:
        """
        How many times any has opened.
        """
        return sum(each.opened for each in self._found.values())

    async def close(self) -> None:
        """
        Stop probing.
        """
        for each in self._found.values():
            await each.close()


def worst(states: Iterable[str]) -> str:
    """
    The worst of several states of `Breaker`.
    """
    return min(states, key=_STATES.index, default="closed")
