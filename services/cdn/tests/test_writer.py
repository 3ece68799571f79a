"""
A call that is cancelled during an upload: its memory is released when no thread reads it any more, and not before.
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.cdn.model import Draft
from services.cdn.store.memory import Budget, ClientMemory
from services.cdn.store.objects.bucket import Bucket, Part
from services.cdn.store.objects.compression import Variants
from services.cdn.store.records import Records
from services.cdn.store.uploads.one_shot import AssetWriter
from services.cdn.tests.calls import MIB, digest
from services.chassis.errors import Unavailable
from services.chassis.serving.background import Chores


class Slow:
    """
    A bucket and records; the bucket accepts parts on demand.
    """

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.asked = 0
        self.log: list[str] = []

    async def reserve(self, *_: object, **__: object) -> None:
        """
        Always.
        """

    async def start(self, *_: object) -> str:
        """
        The id of an upload.
        """
        return "upload"

    async def send(self, _key: str, _upload: str, number: int, body: bytearray) -> Part:
        """
        Take a part, when it may.
        """
        self.asked += 1
        await self.may.wait()
        self.log.append(f"part {number}")
        return Part(number, "", len(body))

    async def abort(self, *_: object) -> None:
        """
        Give the upload up.
        """
        self.log.append("abort")


async def test_a_caller_that_goes_away_while_parts_are_sent() -> None:
    """
    When a call is cancelled while its last parts are being sent, their memory is not released and the upload is not
    aborted before they are.
    """
    slow, data = Slow(), bytes(9 * MIB)
    bucket, budget, chores = cast("Bucket", slow), Budget(16 * MIB, patience=0.05), Chores("uploads")
    draft = Draft(digest(data), len(data), "application/octet-stream")
    variants = Variants(bucket, least_bytes=0, most_bytes=0)

    async def store() -> None:
        async with AssetWriter(
            bucket, cast("Records", slow), variants, draft, ClientMemory(budget, budget, ""), chores
        ) as writer:
            await writer.write(data)
            await writer.finish()

    task = asyncio.create_task(store())
    while slow.asked < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Unavailable):
        await budget.take(16 * MIB)
    assert slow.log == []
    slow.may.set()
    await chores.finish(5)
    assert slow.log == ["part 1", "part 2", "abort"]
    await budget.take(16 * MIB)
