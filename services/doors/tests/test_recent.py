"""
What was read lately.
"""

from __future__ import annotations

from services.doors.store.recent import Recent


class Reads:
    """
    Counts reads of values that have as many artifacts as they say.
    """

    def __init__(self, most_bytes: int) -> None:
        self.now = 0.0
        self.recent = Recent(most_bytes, lambda: self.now)
        self.count = 0

    async def of(self, key: str, artifacts: int = 1, token: str = "") -> bool:
        """
        Whether a value was read, or else kept.
        """
        before = self.count

        async def read() -> int:
            self.count += 1
            return artifacts

        await self.recent.get(token, (key,), read, lambda value: value)
        return self.count > before


async def test_a_value_is_read_again_after_two_seconds() -> None:
    """
    A caller reads a value once in two seconds, and another caller's is not shown to it.
    """
    reads = Reads(1 << 20)
    assert [await reads.of("a"), await reads.of("a"), await reads.of("b"), await reads.of("a", token="t")] == [
        True,
        False,
        True,
        True,
    ]
    reads.now = 2.0
    assert await reads.of("a")


async def test_what_was_read_longest_ago_makes_room() -> None:
    """
    Memory is bounded by the artifacts of all values.
    """
    reads = Reads(400 * 10)
    for key in "abc":
        assert await reads.of(key, 3)
    assert not await reads.of("c", 3)
    assert not await reads.of("b", 3)
    assert await reads.of("a", 3)


async def test_what_is_larger_than_everything_pushes_nothing_out() -> None:
    """
    A value that never fits is read each time, and leaves what is kept alone.
    """
    reads = Reads(400 * 10)
    assert await reads.of("a")
    assert [await reads.of("large", 50), await reads.of("large", 50)] == [True, True]
    assert not await reads.of("a")
