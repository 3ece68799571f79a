from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.ledger.store.batcher import Batcher


class Loads:
    """
    A load that is held until the test lets it go, and that remembers what it was asked.
    """

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[str]) -> Sequence[str]:
        self.asked.append(list(keys))
        await self.gate.wait()
        if self.error:
            raise self.error
        return [key.upper() for key in keys]


async def started(count: int, *, of: Loads) -> None:
    while len(of.asked) < count:
        await asyncio.sleep(0)


async def test_calls_that_arrive_together_are_one_load() -> None:
    """
    Concurrent calls go to the database as one statement, each key once, and each call gets its own answer.
    """
    loads = Loads()
    loads.gate.set()
    batcher = Batcher(loads)
    answers = await asyncio.gather(*(batcher.get(key) for key in ("a", "b", "a")))
    assert answers == ["A", "B", "A"]
    assert loads.asked == [["a", "b"]]


async def test_a_call_never_joins_a_load_that_was_sent_before_it() -> None:
    """
    What a call reads was read after it asked: the same key, asked again during a load, is loaded again.
    """
    loads = Loads()
    batcher = Batcher(loads, in_flight=1)
    first = asyncio.ensure_future(batcher.get("a"))
    await started(1, of=loads)
    second = asyncio.ensure_future(batcher.get("a"))
    await asyncio.sleep(0)
    loads.gate.set()
    assert list(await asyncio.gather(first, second)) == ["A", "A"]
    assert loads.asked == [["a"], ["a"]]


async def test_a_failed_load_fails_only_its_own_calls() -> None:
    """
    Every call of a failed batch gets the error, and the next batch is loaded as if nothing had happened.
    """
    loads = Loads()
    loads.gate.set()
    loads.error = ConnectionError("gone")
    batcher = Batcher(loads)
    answers = await asyncio.gather(batcher.get("a"), batcher.get("b"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError, ConnectionError]
    loads.error = None
    assert await batcher.get("a") == "A"


async def test_a_call_that_gives_up_takes_nobody_with_it() -> None:
    """
    Cancelling one of two calls for the same key leaves the other one its answer.
    """
    loads = Loads()
    batcher = Batcher(loads)
    patient, hasty = (asyncio.ensure_future(batcher.get("a")) for _ in range(2))
    await started(1, of=loads)
    hasty.cancel()
    loads.gate.set()
    assert await patient == "A"
    with pytest.raises(asyncio.CancelledError):
        await hasty


async def test_a_batch_has_a_bound() -> None:
    """
    More keys than one load takes go in several.
    """
    loads = Loads()
    loads.gate.set()
    batcher = Batcher(loads, most=2)
    await asyncio.gather(*(batcher.get(str(number)) for number in range(5)))
    assert [len(keys) for keys in loads.asked] == [2, 2, 1]


async def test_a_load_with_too_few_answers_leaves_nobody_waiting() -> None:
    """
    A mistake in a load is its callers' error, and does not take its place for ever.
    """

    async def load(_keys: Sequence[str]) -> Sequence[str]:
        return []

    batcher = Batcher(load, in_flight=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="zip"):
            await asyncio.wait_for(batcher.get("a"), 5)
