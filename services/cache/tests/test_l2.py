"""
L2 on its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from services.cache.model.entries import Entry
from services.cache.store.compression import Compression, Method
from services.cache.store.l2 import L2Cache
from services.cache.store.valkey import Valkey
from services.cache.tests.harness import Backend

KEY = b"/modelyard.registry.v1.ModelService/GetModel\0m"


@pytest.fixture
async def shared(store: Backend) -> AsyncIterator[L2Cache]:
    valkey = Valkey(store.url, None, cluster=store.cluster, timeout=5.0)
    yield L2Cache(valkey, Compression(Method.NONE, 1 << 20), "test")
    await valkey.close()


def entry(revision: int) -> Entry:
    now = time.time()
    return Entry(f"as of {revision}".encode(), revision, ("m",), now, now + 60)


async def test_an_older_answer_replaces_no_newer_one(shared: L2Cache) -> None:
    """
    An older revision does not overwrite a newer one; the same revision refreshes it, and a newer one replaces it, for
    revisions with any number of digits.
    """
    for put, there in ((9, 9), (8, 9), (9, 9), (10, 10), (9, 10), (123, 123), (99, 123)):
        await shared.put(KEY, entry(put), 60)
        found = await shared.get(KEY)
        assert found is not None
        assert (found.revision, found.value) == (there, f"as of {there}".encode())


@pytest.mark.parametrize("size", [1 << 20, 1 << 50])
def test_a_value_that_says_it_is_too_large_is_none(size: int) -> None:
    """
    What declares more bytes than a value may have is not decompressed, let alone given the memory that it asks for.
    """
    compression = Compression(Method.ZSTD, 10_000)
    value = bytes(10_000)
    assert compression.unpack(compression.pack(value)) == value
    # RFC 8878, section 3.1.1: a frame of one segment, whose size has eight bytes, and an empty last block.
    assert compression.unpack(b"z\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00") is None
    assert compression.unpack(Compression(Method.ZSTD, size).pack(bytes(20_000))) is None
