"""
What the read-through cache keeps: an answer, serialised, with all that it takes to judge it later.
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
# How far before its end an entry may be renewed, in multiples of the time that its load took: XFetch's random factor
# is -ln(u), and u falls below e**-20 twice in a billion reads.
_FAR = 20.0


@dataclass(slots=True)
class Entry:
    """
    An answer, serialised. Nothing of it changes but what is remembered of its last judgement.

    Args:
        value: the answer's bytes; of an absence, its `google.rpc.Status`.
        revision: the one that it reflects.
        tags: what it was made from.
        stored: when, in seconds since the epoch.
        expires: when, in seconds since the epoch.
        took: seconds that the origin took to make it.
        absence: what the origin said with its NOT_FOUND; None for an answer.

    Attributes:
        renewable: the time before which renewing it is out of the question.
        judged: where `Coherence` stood when it found it valid last.
    """

    value: bytes
    revision: int
    tags: tuple[str, ...]
    stored: float
    expires: float
    took: float = 0.0
    absence: str | None = None
    renewable: float = field(init=False, compare=False)
    judged: int = field(default=-1, init=False, compare=False)

    def __post_init__(self) -> None:
        """
        Compute the time before which renewing it is out of the question, so that a hit costs one comparison.
        """
        self.renewable = self.expires - _FAR * self.took

    def encode(self, key: bytes) -> bytes:
        """
        For the shared level: the format's name, a checksum over the key and everything, then everything.
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
        What `encode` made for *key*; None for anything else, the entry of another key included.
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
