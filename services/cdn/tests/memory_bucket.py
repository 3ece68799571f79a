"""
An in-memory bucket, for tests that make thousands of requests or control when each is carried out.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from services.cdn.model import Span
from services.cdn.model.static_files import Headers
from services.cdn.store.objects.bucket import PUBLIC_IMMUTABLE, Bucket, Hash, Multipart, ObjectInfo, Part
from services.cdn.store.objects.copier import Copier
from services.cdn.store.objects.s3 import AlreadyExists, NoSuchKey, S3Settings


class CopyingBucket(Bucket):
    """
    A bucket with the copy operation, so that one object makes all requests to S3.
    """

    def __init__(self, settings: S3Settings) -> None:
        super().__init__(settings)
        self._copier = Copier(settings)

    async def copy(self, source: str, key: str, size_bytes: int, media_type: str) -> None:
        """
        As `AssetStore.copy`.
        """
        await self._copier.copy(source, key, Headers(media_type, PUBLIC_IMMUTABLE), size_bytes)

    async def close(self) -> None:
        await super().close()
        await self._copier.close()


class MemoryBucket(CopyingBucket):
    """
    Implements the operations that uploads and garbage collection need. Each is carried out at once.

    Attributes:
        objects: the bytes by key.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._open: dict[tuple[str, str], dict[int, bytes]] = {}
        self._ids = itertools.count(1)

    async def head(self, key: str) -> ObjectInfo:
        data = self._object(key)
        return ObjectInfo(len(data), "application/octet-stream", datetime.now(UTC), _md5(data))

    async def put(
        self, key: str, body: bytes | bytearray, media_type: str, *, encoding: str = "", first: bool = True
    ) -> None:
        if first and key in self.objects:
            raise AlreadyExists
        self.objects[key] = bytes(body)

    async def start(self, key: str, media_type: str) -> str:
        upload = f"upload-{next(self._ids)}"
        self._open[key, upload] = {}
        return upload

    async def send(self, key: str, upload: str, number: int, body: bytearray) -> Part:
        self._parts(key, upload)[number] = bytes(body)
        return Part(number, _md5(body), len(body))

    async def parts(self, key: str, upload: str) -> list[Part]:
        parts = self._parts(key, upload)
        return [Part(number, _md5(parts[number]), len(parts[number])) for number in sorted(parts)]

    async def complete(self, key: str, upload: str, parts: Sequence[Part], *, first: bool = True) -> None:
        found = self._parts(key, upload)
        if first and key in self.objects:
            raise AlreadyExists
        self.objects[key] = b"".join(found[part.number] for part in parts)
        del self._open[key, upload]

    async def abort(self, key: str, upload: str) -> None:
        self._parts(key, upload)
        del self._open[key, upload]

    async def open_uploads(self, at_once: int = 1000) -> list[Multipart]:
        return [Multipart(key, upload, datetime.now(UTC)) for key, upload in self._open]

    async def copy(self, source: str, key: str, size_bytes: int, media_type: str) -> None:
        self.objects[key] = self._object(source)

    async def delete(self, keys: Sequence[str], *, until: float | None = None) -> None:
        if until is not None and time.monotonic() > until:
            raise TimeoutError
        for key in keys:
            self.objects.pop(key, None)

    async def delete_many(self, keys: Sequence[str], *, until: float | None = None) -> set[str]:
        await self.delete(keys, until=until)
        return set()

    async def open(self, key: str, span: Span) -> Any:
        data = self._object(key)
        return io.BytesIO(data[span.offset : span.offset + span.limit] if span.limit else data[span.offset :])

    async def read(self, body: Any, size: int, digest: Hash | None) -> bytes:
        piece: bytes = body.read(size)
        if digest is not None:
            digest.update(piece)
        return piece

    async def close(self) -> None:
        """
        Nothing to close.
        """

    def _object(self, key: str) -> bytes:
        if key not in self.objects:
            raise NoSuchKey
        return self.objects[key]

    def _parts(self, key: str, upload: str) -> dict[int, bytes]:
        if (key, upload) not in self._open:
            raise NoSuchKey
        return self._open[key, upload]


def _md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
