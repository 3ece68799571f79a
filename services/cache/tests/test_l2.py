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
