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
    What is known of an asset that a static file is made from.

    Args:
        encodings: those that are stored beside it.
    """

    sha256: str
    size_bytes: int
    media_type: str
    encodings: tuple[str, ...]

    @property
    def key(self) -> str:
        """
        Of its bytes.
        """
        return f"assets/{self.sha256}"


class StaticObjects:
    """
    Makes and removes the objects. Whoever calls it holds the lock of the static file.

    Args:
        copier: of the bucket.
        ages: the table of content types.
    """

    def __init__(self, copier: Copier, ages: CacheAges) -> None:
        self._copier, self._ages = copier, ages

    async def write(self, name: StaticName, draft: StaticDraft, original: Original) -> None:
        """
        Make the objects of *name* copies of those of *original*.

        Raises:
            NoSuchKey: the bytes of the asset are not there.
            Unavailable: the object store does not answer.
        """
        # The asset's is what the first who stored these bytes has called them, whoever that was.
        content_type = draft.content_type or original.media_type
        control = draft.cache_control or self._ages.control(content_type)
        headers = Headers(content_type, control, draft.content_disposition)
        # Variants that the new bytes do not have go first: nobody may get the old ones beside the new original.
        await self._copier.remove(f"{each}/{name}" for each in ENCODINGS if each not in original.encodings)
        await self._copier.copy(original.key, str(name), headers, original.size_bytes)
        for encoding in ENCODINGS:
            if encoding in original.encodings:
                await self._write_variant(name, original.key, replace(headers, content_encoding=encoding))

    async def remove(self, name: StaticName) -> None:
        """
        Take the objects of *name* away.
        """
        await self._copier.remove([str(name), *(f"{each}/{name}" for each in ENCODINGS)])

    async def _write_variant(self, name: StaticName, key: str, headers: Headers) -> None:
        source, target = f"{headers.content_encoding}/{key}", f"{headers.content_encoding}/{name}"
        try:
            await self._copier.copy(source, target, headers, await self._copier.size(source))
        except NoSuchKey:
            # It is a help, not a part of the asset: without it the original is served.
            await self._copier.remove([target])
