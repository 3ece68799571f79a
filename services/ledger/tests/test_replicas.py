"""
How far behind its primary a replica may be that answers reads, by a clock that the tests set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from services.chassis.errors import Unavailable
from services.ledger.store.replicas import Replicas
from services.ledger.store.servers import Server

BOUND = 1.0


class World:
    """
    A primary and a replica that say how far they are, and the time. A poll is one round trip, which takes no time.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.primary, self.replica = Scripted("primary"), Scripted("replica 1")
        self.replicas = self.started()

    def started(self) -> Replicas:
        """
        What a process that starts now knows of them: nothing.
        """
        return Replicas([cast("Server", self.replica)], BOUND, clock=lambda: self.now)

    async def poll(self, passed: float = 0.0) -> None:
        """
        Look at both, *passed* seconds later.
        """
        self.now += passed
        await self.replicas.poll_primary(cast("Server", self.primary))
        await self.replicas.all[0].refresh()

    def serves(self, least: int = 0) -> bool:
        return self.replicas.pick(least) is not None


class Scripted:
    """
    A server with a head; without one it does not answer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.head: int | None = 1

    async def fetch_row(self, _statement: object, _args: Sequence[Any]) -> dict[str, int]:
        await asyncio.sleep(0)
        if self.head is None:
            raise Unavailable("DATABASE_UNAVAILABLE", "it does not answer")
        return {"head": self.head}


@pytest.fixture
async def world() -> World:
    """
    Both have been seen at the same revision just now.
    """
    world = World()
    await world.poll()
    assert world.serves()
    return world


async def test_what_was_seen_long_ago_is_no_reason_to_serve(world: World) -> None:
    """
    A process that was stopped for longer than the bound asks the primary until it has looked at it again.
    """
    world.now += BOUND + 0.1
    assert not world.serves()
    await world.poll()
    assert world.serves()


async def test_a_revision_may_be_as_old_as_the_look_before_it(world: World) -> None:
    """
    A revision that is first seen after a pause of the process may have been written at its beginning: a replica without
    it does not serve.
    """
    world.primary.head = 2
    await world.poll(BOUND + 0.1)
    assert not world.serves()
    world.replica.head = 2
    await world.poll(0.1)
    assert world.serves()


async def test_a_new_process_does_not_know_since_when_a_replica_is_behind(world: World) -> None:
    """
    A process that starts while a replica is behind does not read from it before it has reached what the primary had
    then.
    """
    world.primary.head = 5
    world.replicas = world.started()
    await world.poll()
    assert not world.serves()
    # Later revisions do not make up for those.
    world.primary.head, world.replica.head = 6, 4
    await world.poll(0.1)
    assert not world.serves()
    world.replica.head = 5
    await world.poll(0.1)
    assert world.serves()


async def test_a_replica_that_is_behind_serves_up_to_the_bound(world: World) -> None:
    """
    The bound counts from the last look at which the primary did not have the replica's next revision yet.
    """
    world.primary.head = 2
    await world.poll(0.25)
    for _ in range(2):
        await world.poll(0.25)
        assert world.serves()
    world.primary.head = 3
    await world.poll(0.25)
    assert world.serves()
    await world.poll(0.01)
    assert not world.serves()
    # The second of the revisions is younger than the first.
    world.replica.head = 2
    await world.poll(0.25)
    assert world.serves()


async def test_an_answer_shows_how_far_a_replica_is(world: World) -> None:
    """
    What a replica has answered from counts like a look at it.
    """
    world.primary.head = 2
    await world.poll(BOUND + 0.1)
    assert not world.serves()
    world.replicas.all[0].saw(2)
    assert world.serves(2)


async def test_slow_looks_leave_reads_to_the_primary(world: World) -> None:
    """
    When each look comes later than the bound allows, the replica serves only shortly after each.
    """
    for _ in range(3):
        await world.poll(3 * BOUND)
        assert world.serves()
        world.now += 2 * BOUND
        assert not world.serves()


async def test_replicas_serve_while_the_primary_is_away(world: World) -> None:
    """
    A primary that does not answer has no new revisions: a replica that has all that was seen of it serves on, one that
    has less does not.
    """
    world.primary.head = None
    await world.poll(0.25)
    for _ in range(40):
        await world.poll(0.25)
        assert world.serves()
    world.replica.head = 0
    await world.poll(0.25)
    assert not world.serves()


async def test_one_look_that_fails_is_not_a_primary_that_is_away(world: World) -> None:
    """
    A process that was stopped in the middle of a look finds that it took too long: that says nothing of the primary.
    """
    world.primary.head = None
    await world.poll(BOUND + 0.1)
    assert not world.serves()


async def test_a_primary_that_was_restored_is_caught_up_with_again(world: World) -> None:
    """
    What a primary had before it was restored to an earlier state counts no more, and its replica is new to us.
    """
    world.primary.head = world.replica.head = 9
    await world.poll(0.25)
    world.primary.head, world.replica.head = 5, 4
    await world.poll(0.25)
    assert not world.serves()
    world.replica.head = 5
    await world.poll(0.25)
    assert world.serves()


async def test_a_replica_that_fails_is_not_asked_for_a_while(world: World) -> None:
    """
    It is excluded at once and for a second, and what it had applied is forgotten.
    """
    replica = world.replicas.all[0]
    replica.failed(Unavailable("DATABASE_UNAVAILABLE", "it does not answer"))
    assert not world.serves()
    await world.poll(0.9)
    assert not world.serves()
    assert replica.applied == 0
    await world.poll(0.2)
    assert world.serves(1)


async def test_the_lag_grows_between_looks(world: World) -> None:
    """
    The lag that is reported includes the time since the primary was looked at.
    """
    replica = world.replicas.all[0]
    assert replica.lag == 0
    world.now += 7
    assert replica.lag == 7
    assert not replica.serving
