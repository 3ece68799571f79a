"""
Values in fewer bytes, where that saves.
"""

from __future__ import annotations

import gzip
import zlib
from enum import StrEnum

import zstandard

# What is smaller is not worth the time.
_LEAST_BYTES = 1024
# It has to save this part at least, or reading it costs more than it is worth.
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
        method: how.
        most_bytes: no value is larger, compressed or not.

    Attributes:
        bytes_in: of the values that were compressed.
        bytes_out: what they became.
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
        One byte that says how, then the value.
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
        What `pack` made, by whichever method; None for anything else.
        """
        body = data[1:]
        try:
            match data[:1]:
                case b"-":
                    return body
                case b"z":
                    return self._unzstd.decompress(body, max_output_size=self._most_bytes)
                case b"g":
                    return zlib.decompressobj(wbits=31).decompress(body, self._most_bytes)
        except (zstandard.ZstdError, zlib.error):
            pass
        return None
