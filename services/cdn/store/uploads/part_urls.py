"""
Presigned URLs for the parts of an upload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.cdn.model import Upload
from services.cdn.store.objects.s3 import S3Executor, S3Settings


class PartUrls:
    """
    Signs URLs to which clients send parts of an upload.

    Args:
        settings: the bucket and the keys.
        public_endpoint: where clients reach the object store, when that is not where we do.
    """

    def __init__(self, settings: S3Settings, public_endpoint: str | None = None) -> None:
        self._bucket = settings.bucket
        reached = replace(settings, endpoint=public_endpoint or settings.endpoint)
        # Signing asks nobody, but fetching the keys of a machine's role does.
        self._lane = S3Executor(reached, "s3-parts", threads=2, connect=1, read=5, attempts=2)

    async def sign(self, upload: Upload, numbers: Sequence[int], seconds: int) -> list[str]:
        """
        A URL for each of the parts *numbers* of *upload*, for *seconds*, with the part's length and no other.
        """
        return await self._lane.run(lambda: [self._sign(upload, number, seconds) for number in numbers])

    def _sign(self, upload: Upload, number: int, seconds: int) -> str:
        return self._lane.client.generate_presigned_url(
            "upload_part",
            Params={
                "Bucket": self._bucket,
                "Key": upload.key,
                "UploadId": upload.multipart,
                "PartNumber": number,
                "ContentLength": upload.part_size(number),
            },
            ExpiresIn=seconds,
        )

    async def close(self) -> None:
        """
        End the threads.
        """
        await self._lane.close()
