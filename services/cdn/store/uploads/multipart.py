"""
Multipart uploads: the buffer of a part, and the abort of an upload.
"""

from __future__ import annotations

import asyncio
import logging

from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.s3 import NoSuchKey
from services.chassis.errors import ModelyardError

_log = logging.getLogger(__name__)

#: Seconds to wait before each attempt.
_DELAYS = (0.0, 1.0, 5.0, 20.0)


async def abort(bucket: Bucket, key: str, upload: str) -> None:
    """
    Abort a multipart upload, with retries. If all of them fail, `maintenance.py` aborts it later.
    """
    for delay in _DELAYS:
        await asyncio.sleep(delay)
        try:
            await bucket.abort(key, upload)
        except NoSuchKey:
            return
        except ModelyardError as error:
            _log.warning("upload %s of %s is not aborted yet: %s", upload, key, error)
        else:
            return


class PartBuffer:
    """
    Buffer of a part that is being received. Its memory is allocated at once: growing it would fragment the heap with
    one buffer of each size.

    Args:
        size: of the part in bytes.

    Attributes:
        bytes: the whole buffer; zeros where nothing was received yet.
        count: bytes received.
    """

    __slots__ = ("_view", "bytes", "count")

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.count = 0
        self._view = memoryview(self.bytes)

    @property
    def full(self) -> bool:
        """
        Whether the part is complete.
        """
        return self.count == len(self.bytes)

    def take(self, data: memoryview) -> memoryview:
        """
        Append as much of *data* as fits.

        Returns:
            The remainder.
        """
        end = min(self.count + len(data), len(self.bytes))
        taken = end - self.count
        self._view[self.count : end] = data[:taken]
        self.count = end
        return data[taken:]
