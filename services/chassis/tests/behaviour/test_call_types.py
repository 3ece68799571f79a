"""
The four kinds of calls, and who may speak when.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.chassis.tests.behaviour import hpack
from services.chassis.tests.behaviour.client import (
    BOTH,
    EOF,
    UP,
    Stub,
    answers,
    ask,
    ended,
    eventually,
    failure,
    fate,
    name,
    opened,
    path,
    sending,
)
from services.chassis.tests.behaviour.probe_process import MIB
from services.chassis.tests.behaviour.wire import END_HEADERS, END_STREAM, HEADERS, Wire, message
from services.chassis.tests.proto import probe_pb2 as pb


async def test_unary(probe: Stub) -> None:
    """
    One request, one answer.
    """
    answer = await probe.Unary(pb.Ask(payload=b"\x00yard", text="Hafen, 港, 🚢"), timeout=10)
    assert (answer.payload, answer.text) == (b"\x00yard", "Hafen, 港, 🚢")


async def test_server_stream(probe: Stub) -> None:
    """
    One request, any number of answers, in order.
    """
    for count in (0, 1, 1000):
        found = await answers(probe.Down(pb.Ask(answers=count, payload=b"x"), timeout=10))
        assert [answer.index for answer in found] == list(range(count))


async def test_serialized_already(probe: Stub) -> None:
    """
    A handler may yield messages that are serialised.
    """
    call = probe.Down(pb.Ask(answers=3, text="a", serialized=True), timeout=10)
    assert [(answer.index, answer.text) for answer in await answers(call)] == [(0, "a"), (1, "a"), (2, "a")]


async def test_client_stream(probe: Stub) -> None:
    """
    Any number of requests, one answer.
    """
    for count in (0, 1, 1000):
        answer = await probe.Up(sending(pb.Ask(payload=b"abc") for _ in range(count)), timeout=10)
        assert (answer.received, answer.received_bytes) == (count, 3 * count)


async def test_bidi_stream(probe: Stub) -> None:
    """
    Any number of requests and of answers, both in order.
    """
    for count in (0, 1, 1000):
        found = await answers(probe.Both(sending(pb.Ask(text=str(n)) for n in range(count)), timeout=10))
        assert [answer.text for answer in found] == [str(n) for n in range(count)]


async def test_full_duplex(probe: Stub) -> None:
    """
    Answers arrive while the request goes on: each side can wait for the other's last message.
    """
    call = opened(probe, BOTH, timeout=10)
    for number in range(100):
        await call.write(pb.Ask(text=str(number)))
        answer = await call.read()
        assert answer.text == str(number)
    await call.done_writing()
    assert await call.read() is EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_half_close(probe: Stub) -> None:
    """
    A client that has finished sending still gets all its answers.
    """
    call = opened(probe, BOTH, timeout=10)
    for number in range(5):
        await call.write(pb.Ask(text=str(number), pause_ms=30))
    await call.done_writing()
    assert [answer.text async for answer in call] == list("01234")


async def test_begins_before_first_message(probe: Stub) -> None:
    """
    The handler of a client stream begins with the headers: it need not wait for a message that may come late.
    """
    for kind in (UP, BOTH):
        call = name()
        silent = opened(probe, kind, call=call, timeout=10)

        async def begun(call: str = call) -> bool:
            return (await fate(probe, call)).started == 1

        await eventually(begun)
        await silent.done_writing()
        assert len(await answers(silent)) == (kind == UP)


async def test_answer_while_client_sends(probe: Stub) -> None:
    """
    A handler may answer and end while the client is still sending; the client learns of it, and the connection serves
    the calls that follow.
    """
    call = name()
    answer = await probe.Up(_endless(), metadata=(("x-call", call),), timeout=10)
    assert answer.received == 2
    assert (await ended(probe, call)).received == 2
    await probe.Unary(pb.Ask(), timeout=10)


async def test_end_before_half_close(probe: Stub) -> None:
    """
    A handler may end a stream that its client has not ended.
    """
    both = opened(probe, BOTH, timeout=10)
    await both.write(pb.Ask(text="a", enough=2))
    await both.write(pb.Ask(text="b", enough=2))
    assert [answer.text async for answer in both] == ["a", "b"]
    assert await both.code() is grpc.StatusCode.OK


async def test_data_after_end(wire: Wire) -> None:
    """
    What a client sends after the end of a call is dropped, and the connection serves the calls that follow.
    """
    one = message(pb.Ask(enough=1, payload=bytes(10_000)).SerializeToString())
    for kind in (UP, BOTH):
        stream = wire.begin(path(kind))
        wire.data(stream, one)
        reply = await wire.began(stream)
        for _ in range(50):
            wire.data(stream, one)
        await wire.reply(stream)
        assert reply.status == 0
        await wire.ping()
        assert (await wire.call(path("Unary"), message(b""))).status == 0


async def test_trailers_after_end(wire: Wire) -> None:
    """
    A client that ends its request with trailers after the end of the call does no harm to the connection.
    """
    for kind in (UP, BOTH):
        stream = wire.begin(path(kind))
        wire.data(stream, message(pb.Ask(enough=1).SerializeToString()))
        assert (await wire.reply(stream)).status == 0
        wire.frame(HEADERS, END_HEADERS | END_STREAM, stream, hpack.encode([("x-a", "b")]))
        await wire.ping()
        assert (await wire.call(path("Unary"), message(b""))).status == 0


async def test_unknown_method(channel: Any) -> None:
    """
    A method or a service that is not served here is UNIMPLEMENTED, of whatever kind the call is.
    """
    for unknown in ("/modelyard.test.v1.ProbeService/Nothing", "/modelyard.test.v1.Nobody/Unary", "/x/y"):
        calls = (
            channel.unary_unary(unknown)(b"x", timeout=10),
            channel.unary_stream(unknown)(b"x", timeout=10),
            # They send nothing: when a call ends while grpcio's client sends, it may say INTERNAL of its own accord.
            channel.stream_unary(unknown)(timeout=10),
            channel.stream_stream(unknown)(timeout=10),
        )
        for call in calls:
            assert (await failure(call)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_method_that_nobody_overrides(probe: Stub, kind: str) -> None:
    """
    A method of the contract that the servicer lacks is UNIMPLEMENTED, and says which one it is.
    """
    call = opened(probe, f"Later{kind}", timeout=10) if kind in {UP, BOTH} else ask(probe, f"Later{kind}", timeout=10)
    error = await failure(call)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert f"Later{kind} is not implemented" in (error.details() or "")


async def _endless() -> AsyncIterator[pb.Ask]:
    while True:
        yield pb.Ask(payload=bytes(MIB), enough=2)
        await asyncio.sleep(0)
