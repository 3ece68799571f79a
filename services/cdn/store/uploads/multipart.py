"""
Takes back what a multipart upload left in S3.
"""

from __future__ import annotations

import asyncio
import logging

from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.s3 import NoSuchKey
from services.chassis.errors import ModelyardError

_log = logging.getLogger(__name__)

#: Seconds to wait before each try.
_DELAYS = (0.0, 1.0, 5.0, 20.0)


async def abort(bucket: Bucket, key: str, upload: str) -> None:
    """
    Abort a multipart upload, trying for a while. What is still open then is found by the sweep (sweeping.py).
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
