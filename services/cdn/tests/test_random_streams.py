"""
Random streams to Upload: documented statuses, and only declared and verified bytes become visible.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceStub
from services.cdn.tests.calls import chunk, digest, failure, header
from services.cdn.tests.conftest import Cdn, Store
from tests.examples import examples

DOCUMENTED = {grpc.StatusCode.INVALID_ARGUMENT}

small = st.binary(max_size=40)
any_digest = st.one_of(st.text(max_size=70), st.text("0123456789abcdef", min_size=64, max_size=64))
any_number = st.one_of(st.integers(-3, 90), st.integers(-(2**63), 2**63 - 1))
any_header = st.builds(
    lambda sha256, size, media_type: header(sha256=sha256, size=size, media_type=media_type),
    any_digest,
    any_number,
    st.one_of(st.just(""), st.text(max_size=20)),
)
any_chunk = st.builds(chunk, any_number, small)
nothing = st.just(pb.UploadRequest())


@st.composite
def nearly_right(draw: st.DrawFn) -> list[pb.UploadRequest]:
    """
    A valid upload with some messages dropped, doubled or inserted.
    """
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    data = b"".join(pieces)
    offsets = [sum(map(len, pieces[:place])) for place in range(len(pieces))]
    messages = [header(data), *map(chunk, offsets, pieces)]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(messages)))
        change = draw(st.sampled_from(["drop", "double", "insert"]))
        if change == "insert":
            messages.insert(place, draw(st.one_of(any_header, any_chunk, nothing)))
        elif place < len(messages):
            messages[place : place + 1] = [] if change == "drop" else [messages[place]] * 2
    return messages


def accepted(messages: list[pb.UploadRequest]) -> bytes | None:
    """
    The bytes of an upload that follows every rule; None if it violates one.
    """
    if not messages or messages[0].WhichOneof("part") != "header":
        return None
    data = b""
    for message in messages[1:]:
        if message.WhichOneof("part") != "chunk":
            return None
        if not message.chunk.data:
            continue  # an empty chunk is ignored, whatever its offset
        if message.chunk.offset != len(data):
            return None
        data += message.chunk.data
    declared = messages[0].header
    right = declared.sha256 == digest(data) and declared.size_bytes == len(data)
    return data if right and declared.media_type == "" else None


@pytest.fixture
def sender(cdn: Cdn) -> Iterator[AssetServiceStub]:
    """
    A stub of synchronous gRPC: grpc.aio reports an error of its own when the service responds before all was sent.
    """
    with grpc.insecure_channel(cdn.target) as channel:
        yield AssetServiceStub(channel)


@given(messages=st.one_of(nearly_right(), st.lists(st.one_of(any_header, any_chunk, nothing), max_size=4)))
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_streams(sender: AssetServiceStub, store: Store, messages: list[pb.UploadRequest]) -> None:
    """
    A stream that follows every rule becomes an asset. Any other one is rejected with a documented status, and the
    declared digest does not become visible unless those bytes were stored before.
    """
    declared = messages[0].header.sha256 if messages else ""
    sound = re.fullmatch("[0-9a-f]{64}", declared) is not None
    there = sound and store.has(declared)
    data = accepted(messages)
    try:
        asset = await asyncio.to_thread(sender.Upload, iter(messages), timeout=30)
    except grpc.RpcError as error:
        found = failure(error)
        assert data is None
        assert found.code in DOCUMENTED
        assert bool(found.fields) == (found.code is grpc.StatusCode.INVALID_ARGUMENT)
        assert there or not (sound and store.has(declared))
    else:
        assert data is not None or there
        assert asset.sha256 == declared
        assert store.has(declared)


def test_the_oracle() -> None:
    """
    The oracle itself distinguishes valid streams from invalid ones.
    """
    assert accepted([header(b"ab"), chunk(0, b"a"), chunk(1, b"b")]) == b"ab"
    assert accepted([header(b"ab"), chunk(0, b"a")]) is None
    assert accepted([chunk(0, b"a")]) is None
