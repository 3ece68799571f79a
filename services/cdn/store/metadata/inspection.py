"""
Runs format inspection and security scans of assets in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from services.cdn.model import Draft, Span
from services.cdn.model.formats import HEAD_BYTES, Inspection, inspect, scan
from services.cdn.store.objects.bucket import Bucket
from services.chassis.serving.background import begin

# Inspecting the largest header takes half a second and some hundred MB; so may a scan.
_turns, _scans = asyncio.Semaphore(2), asyncio.Semaphore(2)


async def inspect_bytes(head: bytes | bytearray, draft: Draft) -> Inspection:
    """
    Inspect an asset by its first bytes.

    Args:
        head: the first bytes.

    Raises:
        InvalidArgument: the header of a safetensors file does not match its bytes.
    """
    async with _turns:
        first = bytes(memoryview(head)[:HEAD_BYTES])
        return await asyncio.to_thread(inspect, first, draft.size_bytes, draft.media_type)


async def scanned(inspection: Inspection, whole: bytes | bytearray) -> Inspection:
    """
    Add the result of a security scan of the bytes *whole*.
    """
    view = memoryview(whole)
    return await _scanned(inspection, lambda offset, size: bytes(view[offset : offset + size]), len(whole))


async def scan_object(inspection: Inspection, bucket: Bucket, key: str, size_bytes: int) -> Inspection:
    """
    Add the result of a security scan of an object, of which a few ranges are read.

    Raises:
        NoSuchKey: there is no such object.
        Unavailable: S3 does not answer.
    """
    loop = asyncio.get_running_loop()

    def read(offset: int, size: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(_range(bucket, key, offset, size), loop).result()

    return await _scanned(inspection, read, size_bytes)


async def _scanned(inspection: Inspection, read: Callable[[int, int], bytes], size_bytes: int) -> Inspection:
    async with _scans:
        # Shielded from cancellation: the buffer must outlive the thread that reads it.
        work = begin(asyncio.to_thread(partial(scan, read, size_bytes)))
        try:
            return inspection.scanned(await asyncio.shield(work))
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise


async def _range(bucket: Bucket, key: str, offset: int, size: int) -> bytes:
    body = await bucket.open(key, Span(offset, size))
    try:
        data = b""
        while len(data) < size and (piece := await bucket.read(body, size - len(data), None)):
            data += piece
        return data
    finally:
        body.close()
