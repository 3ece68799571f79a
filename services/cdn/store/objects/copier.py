"""
Server-side copies within the bucket: the bytes do not pass through this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from services.cdn.model.static_files import Headers
from services.cdn.store.objects.s3 import NoSuchKey, S3Executor, S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

GIB = 1 << 30
#: The limit of CopyObject; larger objects are copied in parts (S3 API reference, CopyObject and UploadPartCopy).
MOST_AT_ONCE = 5 * GIB
#: Large, because each part is a request, and small enough for several of them to run concurrently.
PART = GIB
_PARTS_AT_ONCE = 4


class Copier:
    """
    Copies, lists and deletes objects.

    Args:
        settings: where the bucket is.
        most_at_once: size in bytes up to which an object is copied with one request.
        part: part size in bytes for larger ones.
    """

    def __init__(self, settings: S3Settings, *, most_at_once: int = MOST_AT_ONCE, part: int = PART) -> None:
        self._bucket = settings.bucket
        self._most_at_once, self._part = most_at_once, part
        # S3 sends whitespace while it copies; compatible servers may be silent until they are done.
        self._lane = S3Executor(settings, "s3-copy", threads=16, connect=2, read=60, attempts=3)

    async def copy(self, source: str, target: str, headers: Headers, size: int) -> None:
        """
        Copy *source* to *target*, replacing its headers.

        Args:
            source, target: keys.
            size: of the source, in bytes.

        Raises:
            NoSuchKey: there is no *source*.
            Unavailable: the object store does not answer.
        """
        described = _described(headers) | {"Bucket": self._bucket, "Key": target}
        if size > self._most_at_once:
            await self._copy_parts(source, target, described, size)
            return
        origin: Any = {"Bucket": self._bucket, "Key": source}
        await self._lane.run(
            partial(self._lane.client.copy_object, CopySource=origin, MetadataDirective="REPLACE", **described)
        )

    async def size(self, key: str) -> int:
        """
        Raises:
            NoSuchKey: there is no such object.
        """
        head = partial(self._lane.client.head_object, Bucket=self._bucket, Key=key)
        return (await self._lane.run(head))["ContentLength"]

    async def remove(self, keys: Iterable[str]) -> None:
        """
        Delete objects; missing ones are ignored.
        """
        # One by one: DeleteObjects requires a checksum that several S3-compatible servers do not support.
        await asyncio.gather(*map(self._remove, keys))

    async def below(self, prefix: str) -> set[str]:
        """
        The keys with this prefix, without the prefix.
        """
        found: set[str] = set()
        after, more = prefix, True
        while more:
            ask = partial(
                self._lane.client.list_objects_v2, Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=1000
            )
            page = await self._lane.run(ask)
            keys = [entry["Key"] for entry in page.get("Contents", [])]
            found.update(key.removeprefix(prefix) for key in keys)
            after, more = keys[-1] if keys else after, page["IsTruncated"] and bool(keys)
        return found

    async def close(self) -> None:
        """
        Wait for calls in progress, then close the connections.
        """
        await self._lane.close()

    async def _remove(self, key: str) -> None:
        with contextlib.suppress(NoSuchKey):
            await self._lane.run(partial(self._lane.client.delete_object, Bucket=self._bucket, Key=key))

    async def _copy_parts(self, source: str, target: str, described: dict[str, Any], size: int) -> None:
        upload = (await self._lane.run(partial(self._lane.client.create_multipart_upload, **described)))["UploadId"]
        names: dict[str, Any] = {"Bucket": self._bucket, "Key": target, "UploadId": upload}
        try:
            parts = await self._send_parts(source, names, size)
            complete = partial(self._lane.client.complete_multipart_upload, MultipartUpload={"Parts": parts}, **names)
            await self._lane.run(complete)
        except BaseException:
            await self._lane.run(partial(self._lane.client.abort_multipart_upload, **names))
            raise

    async def _send_parts(self, source: str, names: dict[str, Any], size: int) -> Sequence[CompletedPartTypeDef]:
        slots = asyncio.Semaphore(_PARTS_AT_ONCE)
        origin: Any = {"Bucket": self._bucket, "Key": source}

        async def send(number: int, first: int) -> CompletedPartTypeDef:
            last = min(first + self._part, size) - 1
            work = partial(
                self._lane.client.upload_part_copy,
                CopySource=origin,
                CopySourceRange=f"bytes={first}-{last}",
                PartNumber=number,
                **names,
            )
            async with slots:
                made = await self._lane.run(work)
            return {"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]}

        starts = enumerate(range(0, size, self._part), start=1)
        sending = [asyncio.create_task(send(number, first)) for number, first in starts]
        try:
            return await asyncio.gather(*sending)
        finally:
            for each in sending:
                each.cancel()


def _described(headers: Headers) -> dict[str, Any]:
    named = {
        "ContentType": headers.content_type,
        "CacheControl": headers.cache_control,
        "ContentDisposition": headers.content_disposition,
        "ContentEncoding": headers.content_encoding,
    }
    return {name: value for name, value in named.items() if value}
