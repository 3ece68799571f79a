"""
Messages that no client should send: each call gets its status, and the connection and the process live on.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from services.chassis.tests.behaviour.client import Stub, answers, ask, ended, fate, name, path
from services.chassis.tests.behaviour.differences import (
    CUT_SHORT,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_UNPACKED,
    OK,
    RESOURCE_EXHAUSTED,
    STRANGE_ENCODING,
    STRANGE_FLAG,
    STREAM_CUT_SHORT,
    UNIMPLEMENTED,
)
from services.chassis.tests.behaviour.probe_process import Probe
from services.chassis.tests.behaviour.wire import Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_ASK = pb.Ask(text="a", answers=1).SerializeToString()
_GOOD = message(_ASK)
_UNARY_REQUEST = ("Unary", "Down")
_SOON = {"grpc-timeout": "150m"}


@pytest.mark.parametrize("body", [_GOOD[:-1], _GOOD[:3], message(_ASK, length=1000)], ids=["short", "prefix", "long"])
async def test_truncated(host: Probe, surviving: Wire, kind: str, body: bytes) -> None:
    """
    A request that ends within a message is INVALID_ARGUMENT.
    """
    wanted = (CUT_SHORT if kind in _UNARY_REQUEST else STREAM_CUT_SHORT).on(host.host)
    assert (await surviving.call(path(kind), body, _SOON)).status == wanted


async def test_nothing(surviving: Wire) -> None:
    """
    A unary request without a message is UNIMPLEMENTED, also to a client that has all the time in the world.
    """
    replies = await asyncio.gather(*(surviving.call(path(kind), b"") for kind in _UNARY_REQUEST))
    assert {reply.status for reply in replies} == {UNIMPLEMENTED}


async def test_headers_alone(surviving: Wire) -> None:
    """
    A unary request that ends with its headers has no message either.
    """
    replies = [await surviving.reply(surviving.begin(path(kind), end=True)) for kind in _UNARY_REQUEST]
    assert {reply.status for reply in replies} == {UNIMPLEMENTED}


async def test_oversized(probe: Stub, surviving: Wire, kind: str) -> None:
    """
    A message that announces more than the limit is RESOURCE_EXHAUSTED at once, without waiting for it.
    """
    call, streams = name(), []
    for length in (1 << 23, (1 << 32) - 1):
        streams.append(surviving.begin(path(kind), {"x-call": call}))
        surviving.data(streams[-1], message(b"the first few bytes", length=length))
    replies = await asyncio.gather(*map(surviving.reply, streams))
    assert {reply.status for reply in replies} == {RESOURCE_EXHAUSTED}
    await ended(probe, call, (await fate(probe, call)).started)


async def test_garbage(host: Probe, surviving: Wire, kind: str) -> None:
    """
    Bytes that are no messages are INVALID_ARGUMENT.
    """
    noise = b"\xff\xff" + random.Random(7).randbytes(1000)  # noqa: S311 - any bytes will do
    for body in (message(_ASK, flag=2), noise):
        assert (await surviving.call(path(kind), body, _SOON)).status in STRANGE_FLAG.on(host.host)


async def test_noise(probe: Stub, surviving: Wire, kind: str) -> None:
    """
    Whatever bytes a request is made of, it gets a status, and so do the calls beside it.
    """
    dice = random.Random(11)  # noqa: S311 - any bytes will do
    long = pb.Ask(text="a" * 300, answers=2, payload=bytes(300)).SerializeToString()
    bodies = []
    for _ in range(30):
        body = bytearray(message(dice.choice([_ASK, long])) * dice.randrange(1, 4))
        for _ in range(dice.randrange(1, 4)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        bodies.append(bytes(body[: dice.randrange(1, len(body) + 1)]))
    beside = asyncio.ensure_future(answers(ask(probe, kind, timeout=10)))
    replies = await asyncio.gather(*(surviving.call(path(kind), body, _SOON) for body in bodies))
    assert None not in {reply.status for reply in replies}
    assert len(await beside) == 1


async def test_compressed_by_nothing(surviving: Wire, kind: str) -> None:
    """
    A message marked as compressed in a request that names no compression is INTERNAL.
    """
    assert (await surviving.call(path(kind), message(_ASK, flag=1))).status == INTERNAL


async def test_does_not_unpack(host: Probe, surviving: Wire, kind: str) -> None:
    """
    A message that does not unpack is INVALID_ARGUMENT.
    """
    for encoding in ("gzip", "deflate"):
        body = message(b"not packed at all", flag=1)
        assert (await surviving.call(path(kind), body, {"grpc-encoding": encoding})).status == NOT_UNPACKED.on(
            host.host
        )


async def test_unheard_of_compression(host: Probe, surviving: Wire, kind: str) -> None:
    """
    A compression that is not spoken here is UNIMPLEMENTED, and the answer says which ones are.
    """
    reply = await surviving.call(path(kind), message(_ASK, flag=1), {"grpc-encoding": "snappy"})
    assert reply.status == STRANGE_ENCODING.on(host.host)
    if host.host == "envoy":
        assert "gzip" in reply.headers["grpc-accept-encoding"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x12\x02\xff\xfe"], ids=["wire format", "utf-8"])
async def test_unreadable(surviving: Wire, kind: str, body: bytes) -> None:
    """
    A whole message that is not one of the method's, for its format or for text that is not UTF-8, is INVALID_ARGUMENT,
    and nothing that anybody has to look at in the log.
    """
    reply = await surviving.call(path(kind), message(body))
    assert reply.status == INVALID_ARGUMENT
    told = reply.trailers.get("grpc-message") or reply.headers["grpc-message"]
    assert told.startswith("the request does not parse")


async def test_second_message(surviving: Wire) -> None:
    """
    More than one message in a unary request is UNIMPLEMENTED.
    """
    for kind in _UNARY_REQUEST:
        assert (await surviving.call(path(kind), _GOOD * 2)).status == UNIMPLEMENTED


async def test_good_before_bad(host: Probe, probe: Stub, surviving: Wire) -> None:
    """
    The messages of a stream that come before a bad one are served, and the handler does not wait for more.
    """
    for bad in (message(b"", length=(1 << 32) - 1), message(b"\xff\xff")):
        call = name()
        stream = surviving.begin(path("Both"), {"x-call": call})
        surviving.data(stream, _GOOD)
        await surviving.began(stream)
        surviving.data(stream, bad)
        reply = await surviving.reply(stream)
        assert reply.status in {RESOURCE_EXHAUSTED, INVALID_ARGUMENT}
        assert pb.Answer.FromString(bytes(reply.body[5:])).text == "a"
        told = await ended(probe, call)
        assert (told.received, told.finished) == (1, 0)


async def test_any_split(surviving: Wire, kind: str) -> None:
    """
    Where a message is cut into frames means nothing, and empty and padded frames are frames.
    """
    stream = surviving.begin(path(kind))
    for octet in _GOOD:
        surviving.data(stream, b"")
        surviving.data(stream, bytes([octet]))
    surviving.data(stream, b"", end=True)
    assert (await surviving.reply(stream)).status == OK
