"""
SHA-256 (FIPS 180-4) whose state can be saved and resumed in another process.

hashlib does not expose its state, so OpenSSL is called directly (``libcrypto``), at the same speed. Where that is not
possible, hashlib is used, which supports everything but ``state``.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
import zlib
from functools import cache

from services.cdn.store.uploads.libcrypto import Context, Library, candidates

_BLOCK = 64
#: FIPS 180-4, section 1: a message has less than 2**64 bits.
_MOST_BYTES = 2**61 - 1
_FORMAT = 1
# The format, the eight words H of FIPS 180-4 section 6.2 and the bytes so far; then the begun block and a CRC-32.
_HEAD = struct.Struct(">B8IQ")
_CRC = struct.Struct(">I")


class NotResumable(RuntimeError):  # noqa: N818 - said of this machine
    """
    No usable OpenSSL was found, so the state cannot be saved: hash from the first byte in one process.
    """

    def __init__(self) -> None:
        super().__init__("no usable libcrypto was found: the state of a SHA-256 cannot be saved on this machine")


class BadState(ValueError):  # noqa: N818 - what it is
    """
    Not a state of ``Digest.state``, or damaged.
    """


def resumable() -> bool:
    """
    Whether states can be saved here. The first call finds and verifies OpenSSL, which takes milliseconds.
    """
    return _library() is not None


class Digest:
    """
    An incremental SHA-256, for one thread at a time. The GIL is released while large pieces are hashed.

    Example:
        digest = Digest()
        digest.update(b"ab")
        later = Digest.resume(digest.state())
        later.update(b"c")
        later.hexdigest()  # of b"abc"
    """

    __slots__ = ("_context", "_count", "_plain")

    def __init__(self) -> None:
        library = _library()
        self._count = 0
        self._context = library.start() if library else None
        self._plain = None if library else hashlib.sha256()

    @property
    def count(self) -> int:
        """
        Number of bytes hashed.
        """
        return self._count

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """
        Hash *data*, without a copy.

        Raises:
            BufferError: it is a memoryview that is not contiguous.
        """
        if self._plain is not None:
            self._plain.update(data)
        else:
            library, context = self._parts()
            library.update(context, data)
        self._count += data.nbytes if isinstance(data, memoryview) else len(data)

    def hexdigest(self) -> str:
        """
        The digest of the bytes so far, 64 lower-case hexadecimal digits; `update` may follow.
        """
        if self._plain is not None:
            return self._plain.hexdigest()
        library, context = self._parts()
        return library.finish(context).hex()

    def state(self) -> bytes:
        """
        The state for ``resume``: about a hundred bytes, the same on every machine. Protect it like the data: it holds
        up to 63 of the last bytes.

        Raises:
            NotResumable: see ``resumable``.
        """
        _, context = self._parts()
        body = _HEAD.pack(_FORMAT, *context.h, self._count) + bytes(context.block[: self._count % _BLOCK])
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def resume(cls, state: bytes) -> Digest:
        """
        The digest with this ``state``.

        Raises:
            BadState: it is not.
            NotResumable: see ``resumable``.
        """
        h, count, rest = _read(state)
        digest = cls()
        _, context = digest._parts()
        _fill(context, h, count, rest)
        digest._count = count
        return digest

    def _parts(self) -> tuple[Library, Context]:
        library = _library()
        if library is None or self._context is None:
            raise NotResumable
        return library, self._context


def _read(state: bytes) -> tuple[tuple[int, ...], int, bytes]:
    body, crc = state[: -_CRC.size], state[-_CRC.size :]
    if len(body) < _HEAD.size or crc != _CRC.pack(zlib.crc32(body)):
        raise BadState("the state of a SHA-256 is damaged")
    version, *h, count = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    if version != _FORMAT or count > _MOST_BYTES or len(rest) != count % _BLOCK:
        raise BadState("the state of a SHA-256 has another format, or is inconsistent")
    return tuple(h), count, rest


def _fill(context: Context, h: tuple[int, ...], count: int, rest: bytes) -> None:
    context.h[:] = list(h)
    context.bits_low, context.bits_high = count * 8 & 0xFFFFFFFF, count * 8 >> 32
    ctypes.memmove(context.block, rest, len(rest))
    context.in_block = len(rest)


@cache
def _library() -> Library | None:
    return next((library for library in candidates() if _is_right(library)), None)


def _is_right(library: Library) -> bool:
    """
    Whether *library* computes what hashlib does, resumed at every position of a block and for every kind of buffer.
    """
    message = bytes(range(200))
    try:
        for pause in (0, 1, 63, 64, 65, 127, 128, 200):
            first = library.start()
            library.update(first, message[:pause])
            second = library.start()
            _fill(second, tuple(first.h), pause, bytes(first.block[: pause % _BLOCK]))
            for rest in (bytearray(message[pause:]), memoryview(message)):
                library.update(second, rest)
            if library.finish(second) != hashlib.sha256(message + message).digest():
                return False
    except (RuntimeError, BufferError):
        return False
    return True
