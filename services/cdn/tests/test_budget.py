"""
Memory budgets: fair, never exceeded, and complete after cancellations.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cdn.store.memory import Budget, UploadMemory
from services.chassis.errors import ResourceExhausted, Unavailable


async def test_in_turn() -> None:
    """
    A large request is not overtaken by small ones that would fit.
    """
    budget, order = Budget(10), []
    await budget.take(6)

    async def want(size: int) -> None:
        await budget.take(size)
        order.append(size)

    waiting = [asyncio.create_task(want(size)) for size in (8, 1, 1)]
    await asyncio.sleep(0)
    assert order == []
    budget.give(6)
    await asyncio.gather(*waiting)
    assert order == [8, 1, 1]


async def test_patience_ends() -> None:
    """
    A request that waits too long is UNAVAILABLE with a retry delay, and the queue moves on.
    """
    budget = Budget(10, patience=0.05)
    await budget.take(10)
    with pytest.raises(Unavailable) as caught:
        await budget.take(1)
    assert caught.value.reason == "UPLOADS_BUSY"
    assert caught.value.retry_after
    budget.give(10)
    await asyncio.wait_for(budget.take(10), 1)


async def test_a_client_waits_for_itself() -> None:
    """
    A client that holds its whole share waits in the queue, is RESOURCE_EXHAUSTED after the timeout, and does not block
    other clients; its own requests are served in order.
    """
    budget, order = Budget(10, patience=0.1, share=4), []
    await budget.take(4, "greedy")

    async def want(name: str, size: int, client: str) -> None:
        await budget.take(size, client)
        order.append(name)

    late = [asyncio.create_task(want(f"greedy {size}", size, "greedy")) for size in (4, 1)]
    await asyncio.sleep(0)
    await budget.take(4, "modest")
    await want("modest", 2, "other")
    budget.give(4, "greedy")
    await late[0]
    with pytest.raises(ResourceExhausted) as caught:
        await late[1]
    assert (caught.value.reason, order) == ("UPLOADS_BUSY", ["modest", "greedy 4"])


async def test_small_ones_have_their_own() -> None:
    """
    Large requests leave a reserve for small ones.
    """
    memory = UploadMemory(32 << 20)
    attacks = [asyncio.create_task(memory.of("attacker").take(4 << 20)) for _ in range(9)]
    await asyncio.wait(attacks, timeout=0.05)
    assert sum(attack.done() for attack in attacks) == 7
    await asyncio.wait_for(memory.of("victim").take(13), 1)
    for attack in attacks:
        attack.cancel()


@given(st.lists(st.tuples(st.integers(1, 15), st.booleans()), max_size=20))
@settings(max_examples=60, deadline=None)
async def test_nothing_is_lost(demands: list[tuple[int, bool]]) -> None:
    """
    Whichever requests are cancelled, the whole budget is available afterwards.
    """
    budget, held, most = Budget(10), 0, 0

    async def use(size: int) -> None:
        nonlocal held, most
        await budget.take(size)
        try:
            held += min(size, 10)
            most = max(most, held)
            await asyncio.sleep(0)
        finally:
            held -= min(size, 10)
            budget.give(size)

    tasks = []
    for size, cancelled in demands:
        tasks.append((asyncio.create_task(use(size)), cancelled))
        await asyncio.sleep(0)
        for task, gives_up in tasks:
            if gives_up:
                task.cancel()
    await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
    assert most <= 10
    await asyncio.wait_for(budget.take(10), 1)
