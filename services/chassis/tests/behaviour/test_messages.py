"""
Messages of every size, plain and compressed.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import grpc
import pytest

from services.chassis.tests.behaviour.client import Stub, answers, ask, ended, failure, fate, name, opened, path
from services.chassis.tests.behaviour.differences import (
    OK,
    RESOURCE_EXHAUSTED,
    UNARY_COMPRESSION,
    UNASKED_COMPRESSION,
)
from services.chassis.tests.behaviour.probe_process import LIMIT, MIB, Probe
from services.chassis.tests.behaviour.wire import WINDOW, Reply, Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, 65_536, 4 * MIB])
async def test_sizes(probe: Stub, kind: str, size: int) -> None:
    """
    A message of any size up to the limit goes both ways unchanged.
    """
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (answer,) = await answers(ask(probe, kind, pb.Ask(answers=1, payload=payload), timeout=30))
    assert answer.payload == payload


async def test_window_used_up(host: Probe, wire: Wire, kind: str) -> None:
    """
    An answer that takes the connection's window to its last byte is followed by its status all the same.
    """

    async def call(on: Wire, size: int) -> Reply:
        request = pb.Ask(answers=1, payload=bytes(size)).SerializeToString()
        stream = on.begin(path(kind))
        for start in range(0, len(body := message(request)), 16_000):
            on.data(stream, body[start : start + 16_000])
        on.data(stream, b"", end=True)
        return await on.reply(stream)

    size = 60_000
    size += WINDOW - len((await call(wire, size)).body)
    async with Wire.open(host.port, window=0) as narrow:
        reply = await call(narrow, size)
    assert (len(reply.body), reply.status) == (WINDOW, 0)


async def test_empty_messages(probe: Stub) -> None:
    """
    Messages without any bytes are messages.
    """
    call = opened(probe, "Both", timeout=10)
    for _ in range(3):
        await call.write(pb.Ask())
    await call.done_writing()
    assert len([answer async for answer in call]) == 3


async def test_request_limit(probe: Stub, kind: str) -> None:
    """
    A request of exactly the limit is served. One byte more is RESOURCE_EXHAUSTED, no handler is left behind, and the
    connection serves the calls that follow.
    """
    call = name()
    error = await failure(ask(probe, kind, _sized(LIMIT), timeout=30))
    assert error.code() is grpc.StatusCode.NOT_FOUND  # as the handler was asked to say
    error = await failure(ask(probe, kind, _sized(LIMIT + 1), call=call, timeout=30))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await ended(probe, call, (await fate(probe, call)).started)
    await answers(ask(probe, kind, timeout=10))


async def test_answer_above_limit(probe: Stub, kind: str) -> None:
    """
    An answer above the limit is RESOURCE_EXHAUSTED, its handler ends, and the connection serves the calls that follow.
    """
    call = name()
    request = pb.Ask(answers=1, answer_bytes=LIMIT + 1)
    error = await failure(ask(probe, kind, request, call=call, timeout=30))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await ended(probe, call)
    await answers(ask(probe, kind, timeout=10))


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests(probe: Stub, kind: str, compression: grpc.Compression) -> None:
    """
    Handlers see what was sent, however it was packed.
    """
    payload = b"yard" * 100_000
    (answer,) = await answers(ask(probe, kind, pb.Ask(answers=1, payload=payload), compression=compression, timeout=10))
    assert answer.payload == payload


async def test_compressed_answers(probe: Stub, kind: str) -> None:
    """
    Clients see what was answered, however it was packed.
    """
    payload = b"yard" * 100_000
    (answer,) = await answers(ask(probe, kind, pb.Ask(answers=1, payload=payload, gzip=True), timeout=10))
    assert answer.payload == payload


async def test_compressed_on_the_wire(host: Probe, wire: Wire, kind: str) -> None:
    """
    A handler that asks for compression gets it, if the client says that it understands it.
    """
    request = message(pb.Ask(answers=1, gzip=True, answer_bytes=100_000).SerializeToString())
    packs = kind in {"Down", "Both"} or UNARY_COMPRESSION.on(host.host)
    assert _packed(await wire.call(path(kind), request, {"grpc-accept-encoding": "identity,gzip"})) == packs
    unasked = packs and UNASKED_COMPRESSION.on(host.host)
    assert _packed(await wire.call(path(kind), request)) == unasked


async def test_both_in_one_stream(wire: Wire) -> None:
    """
    Messages of one stream may be packed or not, each as its flag says.
    """
    plain = pb.Ask(text="a").SerializeToString()
    for encoding, pack in _PACKERS.items():
        body = message(plain) + message(pack(plain), flag=1) + message(plain)
        assert (await wire.call(path("Both"), body, {"grpc-encoding": encoding})).status == OK


async def test_bomb(probe: Stub, wire: Wire, kind: str) -> None:
    """
    A small message that unpacks to more than the limit is RESOURCE_EXHAUSTED.
    """
    for encoding, pack in _PACKERS.items():
        bomb = message(pack(bytes(LIMIT + 1)), flag=1)
        assert len(bomb) < 16_384
        assert (await wire.call(path(kind), bomb, {"grpc-encoding": encoding})).status == RESOURCE_EXHAUSTED
    await answers(ask(probe, kind, timeout=10))


def _packed(reply: Reply) -> bool:
    assert reply.status == OK
    packed = reply.headers.get("grpc-encoding", "identity") == "gzip"
    assert reply.body[0] == packed
    body = bytes(reply.body[5:])
    assert len(pb.Answer.FromString(gzip.decompress(body) if packed else body).payload) == 100_000
    return packed


def _sized(size: int) -> pb.Ask:
    request = pb.Ask(trouble=pb.TROUBLE_NOT_FOUND)
    request.payload = bytes(size - request.ByteSize() - 5)
    assert request.ByteSize() == size
    return request
