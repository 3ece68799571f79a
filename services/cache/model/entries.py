"""
An entry of the read-through cache: a serialized answer, with what is needed to validate it later.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

_FORMAT = b"MY2"
# revision, stored, expires, took, length of the tags, length of the message or -1
_HEADER = struct.Struct(">qdddIi")
_CHECKSUM = 4
_START = len(_FORMAT) + _CHECKSUM
# How long before its expiry an entry may be refreshed, in multiples of its load time: XFetch's random factor
# is -ln(u), and u falls below e**-20 twice in a billion reads.
_FAR = 20.0


@dataclass(slots=True)
class Entry:
    """
    A serialized answer. Immutable, except for the memo of its last validation.

    Args:
        value: the response's bytes; for a NOT_FOUND, its `google.rpc.Status`.
        revision: that it reflects.
        tags: the resources that it depends on.
        stored: when, in seconds since the epoch.
        expires: when, in seconds since the epoch.
        took: seconds that the load took.
        absence: the message of the origin's NOT_FOUND; None for a response.

    Attributes:
        renewable: the earliest time of a refresh.
        validated: the state of `Coherence` when it last found the entry valid.
    """

    value: bytes
    revision: int
    tags: tuple[str, ...]
    stored: float
    expires: float
    took: float = 0.0
    absence: str | None = None
    renewable: float = field(init=False, compare=False)
    validated: int = field(default=-1, init=False, compare=False)

    def __post_init__(self) -> None:
        """
        Compute the earliest time of a refresh, so that a hit costs one comparison.
        """
        self.renewable = self.expires - _FAR * self.took

    def encode(self, key: bytes) -> bytes:
        """
        Encode for L2: the format's name, a checksum over key and body, the body.
        """
        tags = "\n".join(self.tags).encode()
        said = b"" if self.absence is None else self.absence.encode()
        length = -1 if self.absence is None else len(said)
        header = _HEADER.pack(self.revision, self.stored, self.expires, self.took, len(tags), length)
        body = header + tags + said + self.value
        return _FORMAT + _checksum(key, body) + body

    @classmethod
    def decode(cls, key: bytes, data: bytes) -> Entry | None:
        """
        Decode what `encode` returned for *key*; None for anything else, the entry of another key included.
        """
        body = data[_START:]
        if data[:3] != _FORMAT or len(body) < _HEADER.size or data[3:_START] != _checksum(key, body):
            return None
        revision, stored, expires, took, tags_length, said_length = _HEADER.unpack_from(body)
        said_start = _HEADER.size + tags_length
        start = said_start + max(said_length, 0)
        tags = body[_HEADER.size : said_start].decode()
        said = None if said_length < 0 else body[said_start:start].decode()
        return cls(body[start:], revision, tuple(tags.split("\n")) if tags else (), stored, expires, took, said)


def _checksum(key: bytes, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(_CHECKSUM, "big")
