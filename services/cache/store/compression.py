"""
Compression of values in L2.
"""

from __future__ import annotations

import gzip
import zlib
from enum import StrEnum

import zstandard

# Smaller values are not worth compressing.
_LEAST_BYTES = 1024
# Minimum saving, or decompression costs more than it is worth.
_LEAST_SAVING = 0.1


class Method(StrEnum):
    """
    How values are compressed.
    """

    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"


class Compression:
    """
    Compresses values above 1 KiB when it makes them at least a tenth smaller: zstd at level 3 (RFC 8878) or gzip at
    level 6 (RFC 1952).

    Args:
        method: of compression.
        most_bytes: maximum size of a decompressed value.

    Attributes:
        bytes_in: of the values that were compressed.
        bytes_out: their size after compression.
    """

    def __init__(self, method: Method, most_bytes: int) -> None:
        self._method = method
        self._most_bytes = most_bytes
        self._zstd = zstandard.ZstdCompressor(level=3)
        self._unzstd = zstandard.ZstdDecompressor()
        self.bytes_in = 0
        self.bytes_out = 0

    def pack(self, value: bytes) -> bytes:
        """
        Compress a value; the first byte of the result names the method.
        """
        if self._method is Method.NONE or len(value) <= _LEAST_BYTES:
            return b"-" + value
        zstd = self._method is Method.ZSTD
        packed = self._zstd.compress(value) if zstd else gzip.compress(value, 6, mtime=0)
        if len(packed) > len(value) * (1 - _LEAST_SAVING):
            return b"-" + value
        self.bytes_in += len(value)
        self.bytes_out += len(packed)
        return (b"z" if zstd else b"g") + packed

    def unpack(self, data: bytes) -> bytes | None:
        """
        Decompress what `pack` returned, by any method; None for anything else.
        """
        body = data[1:]
        try:
            match data[:1]:
                case b"-":
                    return body
                # The decompressor gives a frame the memory that it declares, whatever the maximum is.
                case b"z" if zstandard.frame_content_size(body) <= self._most_bytes:
                    return self._unzstd.decompress(body, max_output_size=self._most_bytes)
                case b"g":
                    return zlib.decompressobj(wbits=31).decompress(body, self._most_bytes)
        except (zstandard.ZstdError, zlib.error):
            pass
        return None
