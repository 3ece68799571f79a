"""
OpenSSL's SHA-256 with access to its state, through ctypes.

``SHA256_CTX`` and its functions are public (openssl/sha.h), though deprecated in OpenSSL 3 in favour of functions that
hide their state. Nothing here is used before ``digests`` has compared it with hashlib.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MACOS = sys.platform == "darwin"
_NAMES = ("libcrypto.3.dylib",) if _MACOS else ("libcrypto.so.3", "libcrypto.so.1.1", "libcrypto-3-x64.dll")


class Context(ctypes.Structure):
    """
    ``SHA256_CTX``, with padding behind it: a library with a larger structure must not write past ours.
    """

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("block", ctypes.c_ubyte * 64),
        ("in_block", ctypes.c_uint),
        ("digest_bytes", ctypes.c_uint),
        ("_spare", ctypes.c_ubyte * 256),
    )

    h: ctypes.Array[ctypes.c_uint32]
    bits_low: int
    bits_high: int
    block: ctypes.Array[ctypes.c_ubyte]
    in_block: int
    digest_bytes: int


class _Buffer(ctypes.Structure):
    """
    ``Py_buffer`` (docs.python.org/3/c-api/buffer.html), in the stable ABI since Python 3.11.
    """

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
        ("_spare", ctypes.c_ubyte * 64),
    )

    buf: int | None
    len: int


class Library:
    """
    The three functions. `update` releases the GIL.

    Raises:
        OSError, AttributeError: this is not a libcrypto.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        context = ctypes.POINTER(Context)
        self._init = library.SHA256_Init
        self._init.argtypes, self._init.restype = (context,), ctypes.c_int
        self._update = library.SHA256_Update
        self._update.argtypes, self._update.restype = (context, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
        self._final = library.SHA256_Final
        self._final.argtypes, self._final.restype = (ctypes.c_char_p, context), ctypes.c_int

    def start(self) -> Context:
        """
        The state before the first byte.
        """
        context = Context()
        _check(self._init(ctypes.byref(context)))
        return context

    def update(self, context: Context, data: bytes | bytearray | memoryview) -> None:
        """
        Hash *data*, without a copy.

        Raises:
            BufferError: it is a memoryview that is not contiguous.
        """
        with _borrowed(data) as (address, size):
            _check(self._update(ctypes.byref(context), address, size))

    def finish(self, context: Context) -> bytes:
        """
        The digest; *context* is not changed.
        """
        copy = Context.from_buffer_copy(context)
        digest = ctypes.create_string_buffer(32)
        _check(self._final(digest, ctypes.byref(copy)))
        return digest.raw


def candidates() -> Iterator[Library]:
    """
    Candidates for OpenSSL's library; the one that hashlib is linked with comes first.
    """
    for path in _paths():
        try:
            yield Library(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue


def _paths() -> Iterator[str]:
    try:
        linked = importlib.import_module("_hashlib").__file__
    except ImportError:
        linked = None
    if linked:
        yield linked
    yield from _NAMES
    found = ctypes.util.find_library("crypto")
    # macOS aborts a process that loads the system's libcrypto.
    if found and not (_MACOS and found.startswith("/usr/lib/")):
        yield found


@contextmanager
def _borrowed(data: bytes | bytearray | memoryview) -> Iterator[tuple[int | None, int]]:
    """
    The address and the size of *data*, pinned while the block lasts: a bytearray cannot be resized meanwhile, nor a
    memoryview released. `ctypes.from_buffer` does not accept read-only buffers.
    """
    view = _Buffer()
    simple = 0  # PyBUF_SIMPLE: one piece of bytes
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), simple)
    try:
        yield view.buf, view.len
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def _check(done: int) -> None:
    if done != 1:
        raise RuntimeError("OpenSSL refuses to compute SHA-256")
