"""
Looks at the first bytes of assets, beside the event loop.
"""

from __future__ import annotations

import asyncio

from services.cdn.model import Draft
from services.cdn.model.formats import HEAD_BYTES, Inspection, inspect

# The largest header that is read takes half a second and some hundred MB meanwhile.
_turns = asyncio.Semaphore(2)


async def inspected(head: bytes | bytearray, draft: Draft) -> Inspection:
    """
    What the bytes that *draft* declares are, by the first of them.

    Raises:
        InvalidArgument: the header of a safetensors file does not fit its bytes.
    """
    async with _turns:
        first = bytes(memoryview(head)[:HEAD_BYTES])
        return await asyncio.to_thread(inspect, first, draft.size_bytes, draft.media_type)
