"""
Presigned URLs of the parts of a multipart upload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.cdn.model import Upload
from services.cdn.store.objects.s3 import S3Executor, S3Settings


class PartUrls:
    """
    Presigns URLs to which clients upload parts directly.

    Args:
        settings: bucket and credentials.
        public_endpoint: the object store's URL for clients, if it differs from that of this service.
    """

    def __init__(self, settings: S3Settings, public_endpoint: str | None = None) -> None:
        self._bucket = settings.bucket
        reached = replace(settings, endpoint=public_endpoint or settings.endpoint)
        # Presigning is local, but fetching the credentials of an instance role is not.
        self._lane = S3Executor(reached, "s3-parts", threads=2, connect=1, read=5, attempts=2)

    async def sign(self, upload: Upload, numbers: Sequence[int], seconds: int) -> list[str]:
        """
        A presigned URL for each of the parts *numbers*, valid for *seconds* and for exactly the part's length.
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
        Stop the threads.
        """
        await self._lane.close()
