"""
Operations on the objects of one S3 bucket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from services.cdn.model import DEFAULT_MEDIA_TYPE, Span, is_private
from services.cdn.store.objects.s3 import S3Executor, S3Settings, traffic
from services.chassis.errors import Unavailable

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, DeleteTypeDef

#: Content-addressed bytes never change, so caches need not revalidate them (RFC 8246).
PUBLIC_IMMUTABLE = "public, max-age=31536000, immutable"
#: The same for private bytes: a shared cache must not serve them after the presigned URL has expired.
PRIVATE_IMMUTABLE = "private, max-age=31536000, immutable"
# Amazon S3 API Reference, DeleteObjects.
_MOST_DELETED = 1000


def cache_control(key: str) -> str:
    """
    The Cache-Control header of the object *key*.
    """
    return PRIVATE_IMMUTABLE if is_private(key) else PUBLIC_IMMUTABLE


class Hash(Protocol):
    """
    A hash that is updated with the bytes that are read.
    """

    def update(self, data: bytes, /) -> None:
        """
        Hash the next bytes.
        """


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """
    Metadata of an object.
    """

    size_bytes: int
    media_type: str
    time: datetime
    etag: str


@dataclass(frozen=True, slots=True)
class Part:
    """
    A part of a multipart upload.
    """

    number: int
    etag: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Multipart:
    """
    An open multipart upload.
    """

    key: str
    id: str
    time: datetime


class Bucket:
    """
    Objects of one bucket, by key.

    Short calls have a thread pool of their own, so that slow transfers do not block them, and shorter timeouts, so that
    callers learn quickly that S3 is down.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._bucket = settings.bucket
        self._quick = S3Executor(settings, "s3-quick", threads=16, connect=1, read=5, attempts=2)
        self._bulk = S3Executor(settings, "s3-bulk", threads=32, connect=2, read=30, attempts=3)

    async def ping(self) -> None:
        """
        Raises:
            Unavailable, Internal, NoSuchKey: the bucket cannot be used.
        """
        await self._quick.run(partial(self._quick.client.head_bucket, Bucket=self._bucket))

    async def head(self, key: str) -> ObjectInfo:
        """
        Raises:
            NoSuchKey: no such object.
        """
        found = await self._quick.run(partial(self._quick.client.head_object, Bucket=self._bucket, Key=key))
        media_type = found.get("ContentType") or DEFAULT_MEDIA_TYPE
        return ObjectInfo(found["ContentLength"], media_type, found["LastModified"], found["ETag"].strip('"'))

    async def put(
        self, key: str, body: bytes | bytearray, media_type: str, *, encoding: str = "", first: bool = True
    ) -> None:
        """
        Store *body* with one PUT.

        Args:
            encoding: the content encoding of *body*.
            first: fail if the key exists.

        Raises:
            AlreadyExists: the key exists.
        """
        more = {"ContentEncoding": encoding} if encoding else {}
        if first:
            more["IfNoneMatch"] = "*"
        put: Callable[[], object] = partial(
            self._bulk.client.put_object,
            Bucket=self._bucket,
            Key=key,
            ContentType=media_type,
            CacheControl=cache_control(key),
            Body=body,  # type: ignore[arg-type] # boto3 accepts a bytearray, too, without a copy
            **more,  # type: ignore[arg-type]
        )
        await self._bulk.run(put)

    async def start(self, key: str, media_type: str) -> str:
        """
        Create a multipart upload; returns its id.

        Raises:
            Unavailable: S3 does not answer. It may have created one all the same, whose id is lost, as it may have when
                this call was repeated: `maintenance.py` aborts it later.
        """
        create = partial(
            self._bulk.client.create_multipart_upload,
            Bucket=self._bucket,
            Key=key,
            ContentType=media_type,
            CacheControl=cache_control(key),
        )
        return (await self._bulk.run(create))["UploadId"]

    async def send(self, key: str, upload: str, number: int, body: bytearray) -> Part:
        """
        Upload part *number*, counted from 1.

        Raises:
            NoSuchKey: no such upload.
        """
        send = partial(
            self._bulk.client.upload_part,
            Bucket=self._bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=body,  # type: ignore[arg-type] # boto3 accepts it without a copy
        )
        return Part(number, (await self._bulk.run(send))["ETag"].strip('"'), len(body))

    async def parts(self, key: str, upload: str) -> list[Part]:
        """
        The uploaded parts, by number.

        Raises:
            NoSuchKey: no such upload.
        """

        def work() -> list[Part]:
            pages = self._quick.client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=key, UploadId=upload
            )
            parts = [part for page in pages for part in page.get("Parts", [])]
            return [Part(part["PartNumber"], part["ETag"].strip('"'), part["Size"]) for part in parts]

        return await self._quick.run(work)

    async def complete(self, key: str, upload: str, parts: Sequence[Part], *, first: bool = True) -> None:
        """
        Complete a multipart upload: only now the object becomes visible.

        Args:
            first: fail if the key exists.

        Raises:
            AlreadyExists: the key exists; the upload is still open.
            NoSuchKey: no such upload; it may be complete already.
        """
        listed: list[CompletedPartTypeDef] = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        complete: Callable[[], object] = partial(
            self._bulk.client.complete_multipart_upload,
            Bucket=self._bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": listed},
            **({"IfNoneMatch": "*"} if first else {}),  # type: ignore[arg-type]
        )
        await self._bulk.run(complete)

    async def abort(self, key: str, upload: str) -> None:
        """
        Raises:
            NoSuchKey: no such upload.
        """
        abort = partial(self._bulk.client.abort_multipart_upload, Bucket=self._bucket, Key=key, UploadId=upload)
        await self._bulk.run(abort)

    async def open_uploads(self, at_once: int = 1000) -> list[Multipart]:
        """
        The open multipart uploads.

        Args:
            at_once: page size of the listing.
        """

        def work() -> list[Multipart]:
            asked = self._quick.client.get_paginator("list_multipart_uploads")
            pages = asked.paginate(Bucket=self._bucket, PaginationConfig={"PageSize": at_once})
            found = [each for page in pages for each in page.get("Uploads", [])]
            return [Multipart(each["Key"], each["UploadId"], each["Initiated"]) for each in found]

        return await self._quick.run(work)

    async def below(self, prefix: str, before: datetime) -> list[str]:
        """
        The keys with this prefix that were stored before a time, out of the first thousand.
        """
        ask = partial(self._quick.client.list_objects_v2, Bucket=self._bucket, Prefix=prefix)
        found = await self._quick.run(ask)
        return [each["Key"] for each in found.get("Contents", []) if each["LastModified"] < before]

    async def delete(self, keys: Sequence[str], *, until: float | None = None) -> None:
        """
        Delete objects; missing ones are ignored.

        Args:
            until: deadline on the clock of `time.monotonic()`, after which nothing is deleted.

        Raises:
            Unavailable: S3 does not answer, or the deadline has passed.
        """
        if len(keys) == 1:
            await self._quick.run(partial(_delete, self._quick, self._bucket, keys[0], until))
            return
        if kept := await self.delete_many(keys, until=until):
            raise Unavailable("ASSET_STORE_UNAVAILABLE", f"the object store did not delete {len(kept)} objects")

    async def delete_many(self, keys: Sequence[str], *, until: float | None = None) -> set[str]:
        """
        Delete objects, a thousand per request.

        Args:
            until: see `delete`.

        Returns:
            The keys that were not deleted.

        Raises:
            Unavailable: S3 does not answer, or the deadline has passed.
        """
        refused: set[str] = set()
        for first in range(0, len(keys), _MOST_DELETED):
            some = keys[first : first + _MOST_DELETED]
            refused |= await self._quick.run(partial(_delete_many, self._quick, self._bucket, some, until))
        return refused

    async def open(self, key: str, span: Span) -> StreamingBody:
        """
        Open a range of an object, to be read with ``read`` and then closed.

        Raises:
            NoSuchKey: no such object.
            RangeNotSatisfiable: the range begins at or after the end.
        """
        if span.whole:
            get = partial(self._bulk.client.get_object, Bucket=self._bucket, Key=key)
        else:
            last = span.offset + span.limit - 1 if span.limit else ""
            get = partial(
                self._bulk.client.get_object, Bucket=self._bucket, Key=key, Range=f"bytes={span.offset}-{last}"
            )
        return (await self._bulk.run(get))["Body"]

    async def read(self, body: StreamingBody, size: int, digest: Hash | None) -> bytes:
        """
        Read the next *size* bytes of *body* (fewer only at its end) and update *digest* with them, if given.

        Raises:
            Unavailable: the connection broke.
        """

        def work() -> bytes:
            piece: bytes = body.read(size)
            traffic().moved("GetObject", "received", len(piece))
            if digest is not None:
                digest.update(piece)
            return piece

        return await self._bulk.run(work)

    async def close(self) -> None:
        """
        Wait for calls in progress, then close the connections.
        """
        await asyncio.gather(self._quick.close(), self._bulk.close())


def _check_time(until: float | None) -> None:
    # In the thread that sends the request, immediately before: after a pause in between, the lock may have expired.
    if until is not None and time.monotonic() > until:
        raise TimeoutError


def _delete(lane: S3Executor, bucket: str, key: str, until: float | None) -> None:
    _check_time(until)
    lane.client.delete_object(Bucket=bucket, Key=key)


def _delete_many(lane: S3Executor, bucket: str, keys: Sequence[str], until: float | None) -> set[str]:
    _check_time(until)
    listed: DeleteTypeDef = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    answer = lane.client.delete_objects(Bucket=bucket, Delete=listed)
    errors = {each["Key"]: each.get("Code", "") for each in answer.get("Errors", []) if "Key" in each}
    # Some S3-compatible servers report missing keys as errors.
    return {key for key, code in errors.items() if code != "NoSuchKey"}
