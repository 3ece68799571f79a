"""
Keeps the policies of this process current: they follow the change stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from services.chassis.access.policies import REGISTRY, Policies
from services.chassis.serving.background import Work, beside
from services.ledger.model.changes import Change, Discontinuity, Heartbeat
from services.ledger.store.change_feed import ChangeFeed
from services.registry.model.policies import PolicyEvent
from services.registry.store.api_tokens import ApiTokenStore
from services.registry.store.policies import PolicyStore

_HEARTBEAT = 0.5
_RETRY = (0.05, 1.0)


async def watch_policies(
    store: PolicyStore, tokens: ApiTokenStore, feed: ChangeFeed, heartbeat: float
) -> AsyncGenerator[PolicyEvent, None]:
    """
    All policies and API tokens, then what changes of them; until the log of changes has a gap.

    Args:
        heartbeat: seconds between heartbeats.

    Raises:
        Unavailable: the database does not answer, or was restored or replaced.
    """
    async with aclosing(feed.watch(0, "", heartbeat)) as events:
        loaded = False
        async for event in events:
            if not loaded:
                # After the stream began: they may be newer than its next changes, which are then read again.
                found, head = await store.load()
                # Not before the policies: what is said to be of a revision may be newer, and not older.
                yield PolicyEvent(found, await tokens.load(), complete=True, applied=head)
                loaded = True
            if isinstance(event, Discontinuity):
                return
            if isinstance(event, Heartbeat):
                yield PolicyEvent({}, {}, complete=False, applied=event.applied, current=event.current)
                continue
            names = {key for each in event.changes if (key := _policy_of(each)) is not None}
            owners = {key for each in event.changes if (key := _tokens_of(each)) is not None}
            found = (await store.load(names))[0] if names else {}
            live = await tokens.load(owners) if owners else {}
            yield PolicyEvent({key: found.get(key) for key in names}, live, complete=False, applied=event.number)


class PolicyFollower:
    """
    Follows the policies.

    Args:
        policies: kept current.
        store: reads them.
        tokens: reads API tokens.
        feed: the change stream.
    """

    def __init__(self, policies: Policies, store: PolicyStore, tokens: ApiTokenStore, feed: ChangeFeed) -> None:
        self._policies = policies
        self._store = store
        self._tokens = tokens
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
        async with aclosing(watch_policies(self._store, self._tokens, self._feed, _HEARTBEAT)) as events:
            async for event in events:
                if event.complete:
                    self._policies.reset(event.applied)
                self._policies.apply(event.changed, event.tokens, complete=event.complete)
                self._policies.heard(event.applied, float("-inf") if event.current is None else began + event.current)
                if event.current is not None:
                    self._first.set()


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


def _tokens_of(change: Change) -> str | None:
    """
    The id of the namespace whose API tokens a change may have changed.
    """
    parts = change.resource.split("/")
    if parts[0] == "namespaces" and (len(parts) == 2 or (len(parts) == 4 and parts[2] == "tokens")):
        return parts[1]
    return None
