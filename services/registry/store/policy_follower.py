"""
Keeps the policies of this process current: they follow the change stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from services.chassis.access.policies import REGISTRY, Policies
from services.chassis.serving.background import Work, beside
from services.ledger.model.changes import Change, Discontinuity, Heartbeat
from services.ledger.store.change_feed import ChangeFeed
from services.registry.store.policies import PolicyStore

_HEARTBEAT = 0.5
_RETRY = (0.05, 1.0)


class PolicyFollower:
    """
    Follows the policies.

    Args:
        policies: kept current.
        store: reads them.
        feed: the change stream.
    """

    def __init__(self, policies: Policies, store: PolicyStore, feed: ChangeFeed) -> None:
        self._policies = policies
        self._store = store
        self._feed = feed
        self._first = asyncio.Event()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """
        Follow them while the block runs.
        """
        async with beside(self._follow()):
            yield

    async def ping(self) -> None:
        """
        Raises:
            TimeoutError: the policies have not been read yet.
        """
        async with asyncio.timeout(1.0):
            await self._first.wait()

    async def _follow(self) -> None:
        await Work("follow-policies", "follow the policies", retry=_RETRY).forever(self._read, pause=0.0)

    async def _read(self) -> None:
        began = time.monotonic()
        # From now on; then all policies, which may be newer: what comes twice changes nothing.
        async with aclosing(self._feed.watch(0, "", _HEARTBEAT)) as events:
            loaded = False
            async for event in events:
                if not loaded:
                    found, head = await self._store.load()
                    self._policies.replace(found)
                    self._policies.reset(head)
                    loaded = True
                if isinstance(event, Discontinuity):
                    return
                if isinstance(event, Heartbeat):
                    if event.current is not None:
                        self._policies.heard(event.applied, began + event.current)
                        self._first.set()
                    continue
                changed = {key for each in event.changes if (key := _policy_of(each)) is not None}
                if changed:
                    found, _ = await self._store.load(changed)
                    self._policies.apply({key: found.get(key) for key in changed})
                self._policies.heard(event.number, float("-inf"))


def _policy_of(change: Change) -> str | None:
    """
    The key of the policy that a change may have changed.
    """
    parts = change.resource.split("/")
    if parts == ["policy"]:
        return REGISTRY
    if parts[0] == "namespaces" and (len(parts) == 2 or parts[2:] == ["policy"]):
        return parts[1]
    return None
