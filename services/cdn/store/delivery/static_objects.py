"""
The objects of static files in the bucket: a copy of the asset, and copies of its compressed variants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.cdn.model.static_files import CacheAges, Headers, StaticDraft, StaticName
from services.cdn.store.objects.copier import Copier
from services.cdn.store.objects.s3 import NoSuchKey

ENCODINGS = ("gzip", "zstd")


@dataclass(frozen=True, slots=True)
class Original:
    """
    The asset that a static file is copied from.

    Args:
        encodings: of its stored variants.
    """

    sha256: str
    size_bytes: int
    media_type: str
    encodings: tuple[str, ...]

    @property
    def key(self) -> str:
        """
        Key of its bytes.
        """
        return f"assets/{self.sha256}"


class StaticObjects:
    """
    Writes and deletes the objects. The caller holds the lock of the static file.

    Args:
        copier: of the bucket.
        ages: max-age by content type.
    """

    def __init__(self, copier: Copier, ages: CacheAges) -> None:
        self._copier, self._ages = copier, ages

    async def write(self, name: StaticName, draft: StaticDraft, original: Original) -> None:
        """
        Copy the objects of *original* to *name*.

        Raises:
            NoSuchKey: the bytes of the asset are not there.
            Unavailable: the object store does not answer.
        """
        # The asset's media type is that of the first upload of these bytes, by whatever client.
        content_type = draft.content_type or original.media_type
        control = draft.cache_control or self._ages.control(content_type)
        headers = Headers(content_type, control, draft.content_disposition)
        # Obsolete variants are deleted first, so that none is served next to the new original.
        await self._copier.remove(f"{each}/{name}" for each in ENCODINGS if each not in original.encodings)
        await self._copier.copy(original.key, str(name), headers, original.size_bytes)
        for encoding in ENCODINGS:
            if encoding in original.encodings:
                await self._write_variant(name, original.key, replace(headers, content_encoding=encoding))

    async def remove(self, name: StaticName) -> None:
        """
        Delete the objects of *name*.
        """
        await self._copier.remove([str(name), *(f"{each}/{name}" for each in ENCODINGS)])

    async def _write_variant(self, name: StaticName, key: str, headers: Headers) -> None:
        source, target = f"{headers.content_encoding}/{key}", f"{headers.content_encoding}/{name}"
        try:
            await self._copier.copy(source, target, headers, await self._copier.size(source))
        except NoSuchKey:
            # Variants are optional: without one the original is served.
            await self._copier.remove([target])
