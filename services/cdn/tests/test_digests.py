"""
Resumable SHA-256: always equal to hashlib's.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cdn.store.uploads import digests
from services.cdn.store.uploads.digests import BadState, Digest, NotResumable, resumable
from services.cdn.store.uploads.libcrypto import Context, Library, _borrowed, candidates

needs_openssl = pytest.mark.skipif(not resumable(), reason="there is no libcrypto here")

# FIPS 180-4's examples (csrc.nist.gov, "Examples with Intermediate Values").
VECTORS = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}


@pytest.fixture
def without_openssl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    A machine without libcrypto.
    """
    monkeypatch.setattr(digests, "candidates", lambda: iter(()))
    digests._library.cache_clear()
    yield
    digests._library.cache_clear()


@pytest.mark.parametrize(("data", "sha256"), VECTORS.items())
def test_vectors(data: bytes, sha256: str) -> None:
    """
    The examples of the standard.
    """
    digest = Digest()
    digest.update(data)
    assert digest.hexdigest() == sha256


@needs_openssl
@given(data=st.binary(max_size=700), cuts=st.lists(st.integers(0, 700), max_size=6), kinds=st.integers(0, 3**7))
@settings(max_examples=200, deadline=None)
def test_any_pieces(data: bytes, cuts: list[int], kinds: int) -> None:
    """
    Pieces of any size and kind of buffer, with a saved and resumed state or an intermediate digest between any two,
    give the same digest.
    """
    digest, start = Digest(), 0
    for place, cut in enumerate([*sorted(cuts), len(data)]):
        kind = (bytes, bytearray, memoryview)[kinds // 3**place % 3]
        digest.update(kind(data[start:cut]))
        start = max(start, min(cut, len(data)))
        assert digest.hexdigest() == hashlib.sha256(data[:start]).hexdigest()
        digest = Digest.resume(digest.state())
        assert digest.count == start
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


@needs_openssl
@given(data=st.binary(max_size=200), state=st.binary(max_size=130))
@settings(deadline=None)
def test_any_state(data: bytes, state: bytes) -> None:
    """
    Bytes that are not a state are rejected, and states that were changed anywhere.
    """
    with pytest.raises(BadState):
        Digest.resume(state)
    digest = Digest()
    digest.update(data)
    good = digest.state()
    place = len(data) * 7 % len(good)
    with pytest.raises(BadState):
        Digest.resume(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    with pytest.raises(BadState):
        Digest.resume(good[:place])


def _state(version: int, count: int, rest: bytes) -> bytes:
    body = struct.pack(">B8IQ", version, *range(8), count) + rest
    return body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    "state",
    [_state(2, 0, b""), _state(1, 3, b"ab"), _state(1, 64, bytes(64)), _state(1, 2**61, b"")],
    ids=["another format", "too few bytes", "a whole block", "too many bytes for SHA-256"],
)
def test_states_that_do_not_fit(state: bytes) -> None:
    """
    A state with a valid checksum is rejected if its fields are inconsistent.
    """
    with pytest.raises(BadState):
        Digest.resume(state)


@needs_openssl
def test_the_state_is_portable() -> None:
    """
    The state has the documented format, whatever the machine's byte order: FIPS 180-4's initial words, no bytes.
    """
    body = bytes.fromhex("01 6a09e667 bb67ae85 3c6ef372 a54ff53a 510e527f 9b05688c 1f83d9ab 5be0cd19 0000000000000000")
    assert Digest().state() == body + zlib.crc32(body).to_bytes(4)


@needs_openssl
def test_another_process() -> None:
    """
    Another process resumes a saved state.
    """
    digest = Digest()
    digest.update(b"a" * 1001)
    code = (
        "import sys; from services.cdn.store.uploads.digests import Digest\n"
        "digest = Digest.resume(bytes.fromhex(sys.argv[1])); digest.update(b'b' * 99); print(digest.hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, digest.state().hex()], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(b"a" * 1001 + b"b" * 99).hexdigest()


@needs_openssl
def test_more_than_4_gigabits() -> None:
    """
    The bit count exceeds 32 bits, and a state beyond that is resumed.
    """
    piece, digest = bytes(2**20), Digest()
    for _ in range(520):
        digest.update(piece)
    digest = Digest.resume(digest.state())
    digest.update(b"end")
    assert digest.count == 520 * 2**20 + 3
    # hashlib.sha256(bytes(520 * 2**20) + b"end")
    assert digest.hexdigest() == "4457ee68a61987e88e2d5251fde356a8cfb83d09430418926a84358e82599f0a"


def test_views() -> None:
    """
    A view counts in bytes, not elements; one that is not contiguous is rejected and changes nothing.
    """
    digest, wide = Digest(), memoryview(bytes(range(80))).cast("I")
    digest.update(wide[2:12])
    with pytest.raises(BufferError):
        digest.update(memoryview(b"abcdef")[::2])
    assert digest.count == 40
    assert digest.hexdigest() == hashlib.sha256(bytes(range(8, 48))).hexdigest()


def test_borrowed_buffers() -> None:
    """
    A buffer can be neither resized nor released while it is hashed; afterwards it can.
    """
    data = bytearray(b"abc")
    with _borrowed(data) as (address, size):
        assert address
        assert size == 3
        with pytest.raises(BufferError):
            data.append(1)
    data.append(1)


@pytest.mark.usefixtures("without_openssl")
def test_without_openssl() -> None:
    """
    Without OpenSSL digests are right, but their state cannot be saved or resumed.
    """
    assert not resumable()
    digest = Digest()
    digest.update(memoryview(b"abc"))
    assert digest.count == 3
    assert digest.hexdigest() == VECTORS[b"abc"]
    with pytest.raises(NotResumable):
        digest.state()
    with pytest.raises(NotResumable):
        Digest.resume(_state(1, 0, b""))


@needs_openssl
@pytest.mark.parametrize("wrong", ["digest", "state", "refusal"])
def test_wrong_libraries(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """
    A library that computes another digest, has another structure of the state, or fails is skipped.
    """
    right = next(candidates())

    class Wrong(Library):
        def __init__(self) -> None:
            pass

        def start(self) -> Context:
            return right.start()

        def update(self, context: Context, data: bytes | bytearray | memoryview) -> None:
            if wrong == "refusal":
                raise RuntimeError("no")
            right.update(context, data)
            if wrong == "state":
                context.block[0] ^= 1

        def finish(self, context: Context) -> bytes:
            return bytes(32) if wrong == "digest" else right.finish(context)

    monkeypatch.setattr(digests, "candidates", lambda: iter([Wrong(), right]))
    digests._library.cache_clear()
    assert digests._library() is right
    digests._library.cache_clear()
