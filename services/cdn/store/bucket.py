"""
Every call to S3, in our words: a digest in, an asset out.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from services.cdn.model import DEFAULT_MEDIA_TYPE, Asset, Draft, Span, asset_name
from services.cdn.store.s3 import Lane, S3Settings

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

#: Content-addressed bytes never change: whoever has them may keep them (RFC 8246).
_FOREVER = "public, max-age=31536000, immutable"


class Bucket:
    """
    The assets of one bucket, each under its resource name as the key.

    The short calls about assets have threads of their own, so that a hundred slow transfers do not hold them up, and
    are given up sooner, so that a caller hears quickly that S3 is down.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._bucket = settings.bucket
        self._quick = Lane(settings, "s3-quick", threads=16, connect=1, read=5, attempts=2)
        self._bulk = Lane(settings, "s3-bulk", threads=32, connect=2, read=30, attempts=3)

    async def ping(self) -> None:
        """
        Raises:
            Unavailable, Internal, Missing: the bucket cannot be used.
        """
        await self._quick.run(partial(self._quick.client.head_bucket, Bucket=self._bucket))

    async def head(self, sha256: str) -> Asset:
        """
        Raises:
            Missing: no such asset.
        """
        head = partial(self._quick.client.head_object, Bucket=self._bucket, Key=asset_name(sha256))
        found = await self._quick.run(head)
        media_type = found.get("ContentType") or DEFAULT_MEDIA_TYPE
        return Asset(sha256, found["ContentLength"], media_type, found["LastModified"])

    async def keys(self, after: str, count: int) -> tuple[list[str], bool]:
        """
        Up to *count* keys below ``assets/`` that come after *after*, and whether there are more.
        """
        ask = partial(
            self._quick.client.list_objects_v2,
            Bucket=self._bucket,
            Prefix=asset_name(""),
            StartAfter=after,
            MaxKeys=count,
        )
        found = await self._quick.run(ask)
        return [entry["Key"] for entry in found.get("Contents", [])], found["IsTruncated"]

    async def put(self, draft: Draft, body: bytearray) -> None:
        """
        Store *body* whole.

        Raises:
            Taken: it is stored already.
        """
        put = partial(
            self._bulk.client.put_object,
            Bucket=self._bucket,
            Key=asset_name(draft.sha256),
            ContentType=draft.media_type,
            CacheControl=_FOREVER,
            IfNoneMatch="*",
            Body=body,  # type: ignore[arg-type] # boto3 takes it, and copies nothing
        )
        await self._bulk.run(put)

    async def start(self, draft: Draft) -> str:
        """
        Begin an upload in parts; returns its id.
        """
        create = partial(
            self._bulk.client.create_multipart_upload,
            Bucket=self._bucket,
            Key=asset_name(draft.sha256),
            ContentType=draft.media_type,
            CacheControl=_FOREVER,
        )
        return (await self._bulk.run(create))["UploadId"]

    async def send(self, sha256: str, upload: str, number: int, body: bytearray) -> CompletedPartTypeDef:
        """
        Store part *number*, from 1 on.
        """
        send = partial(
            self._bulk.client.upload_part,
            Bucket=self._bucket,
            Key=asset_name(sha256),
            UploadId=upload,
            PartNumber=number,
            Body=body,  # type: ignore[arg-type] # boto3 takes it, and copies nothing
        )
        return {"PartNumber": number, "ETag": (await self._bulk.run(send))["ETag"]}

    async def complete(self, sha256: str, upload: str, parts: Sequence[CompletedPartTypeDef]) -> None:
        """
        Make the parts one asset: only now does anybody see it.

        Raises:
            Taken: it is stored already; the upload is still open.
            Missing: no such upload, perhaps because it is complete.
        """
        complete = partial(
            self._bulk.client.complete_multipart_upload,
            Bucket=self._bucket,
            Key=asset_name(sha256),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )
        await self._bulk.run(complete)

    async def abort(self, sha256: str, upload: str) -> None:
        """
        Raises:
            Missing: no such upload (any more).
        """
        abort = partial(
            self._bulk.client.abort_multipart_upload, Bucket=self._bucket, Key=asset_name(sha256), UploadId=upload
        )
        await self._bulk.run(abort)

    async def open(self, sha256: str, span: Span) -> StreamingBody:
        """
        The bytes of a part of an asset, to be read in ``read`` and then closed.

        Raises:
            Missing: no such asset.
            PastEnd: the span begins at the end or after it.
        """
        name = asset_name(sha256)
        if span.whole:
            get = partial(self._bulk.client.get_object, Bucket=self._bucket, Key=name)
        else:
            last = span.offset + span.limit - 1 if span.limit else ""
            get = partial(
                self._bulk.client.get_object, Bucket=self._bucket, Key=name, Range=f"bytes={span.offset}-{last}"
            )
        return (await self._bulk.run(get))["Body"]

    async def read(self, body: StreamingBody, size: int, digest: hashlib._Hash) -> bytes:
        """
        The next *size* bytes of *body*, fewer at its end only; they are added to *digest*.

        Raises:
            Unavailable: the connection broke.
        """

        def work() -> bytes:
            piece: bytes = body.read(size)
            digest.update(piece)
            return piece

        return await self._bulk.run(work)

    async def close(self) -> None:
        """
        Wait for the calls under way, then close the connections.
        """
        await asyncio.gather(self._quick.close(), self._bulk.close())
