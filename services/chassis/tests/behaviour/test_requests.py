"""
Requests that are no calls, or odd ones: answered in HTTP's or gRPC's own terms, and the connection and the process
live on.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from services.chassis.tests.behaviour import hpack
from services.chassis.tests.behaviour.client import Stub, ask, fate, name, path
from services.chassis.tests.behaviour.differences import (
    BAD_BASE64,
    INTERNAL,
    NOT_GRPC,
    NOT_POST,
    OK,
    STRANGE_CODEC,
    UNIMPLEMENTED,
    UNREADABLE_PATH,
)
from services.chassis.tests.behaviour.probe_process import Probe
from services.chassis.tests.behaviour.wire import DATA, END_HEADERS, END_STREAM, HEADERS, Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_GOOD = message(pb.Ask(text="a", answers=1).SerializeToString())


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web", "text/plain", None])
async def test_content_type(host: Probe, surviving: Wire, content_type: str | None) -> None:
    """
    What does not call itself gRPC is refused by HTTP's own status, which is what such a client understands.
    """
    reply = await surviving.call(path("Unary"), _GOOD, {"content-type": content_type})
    assert (reply.http, reply.status) == NOT_GRPC.on(host.host)


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;charset=utf-8"])
async def test_kinds_of_grpc(surviving: Wire, content_type: str) -> None:
    """
    gRPC may say which kind of messages it carries.
    """
    assert (await surviving.call(path("Unary"), _GOOD, {"content-type": content_type})).status == OK


async def test_unheard_of_codec(host: Probe, surviving: Wire) -> None:
    """
    Messages are protobuf: a call that says they are anything else is UNIMPLEMENTED.
    """
    for content_type in ("application/grpc+foo", "application/grpc+json;charset=utf-8", "application/grpc+protox"):
        reply = await surviving.call(path("Unary"), _GOOD, {"content-type": content_type})
        assert reply.status == STRANGE_CODEC.on(host.host)


async def test_verb(host: Probe, surviving: Wire) -> None:
    """
    Calls are POST requests.
    """
    verbs = ("GET", "PUT", "DELETE")
    for reply in await asyncio.gather(*(surviving.call(path("Unary"), _GOOD, {":method": verb}) for verb in verbs)):
        assert reply.http in NOT_POST.on(host.host)
        assert reply.status in {None, INTERNAL}


async def test_without_te(probe: Stub, surviving: Wire) -> None:
    """
    A client that does not promise to read trailers is refused before anything is done for it: it would not learn how
    that went.
    """
    call = name()
    calls = [surviving.call(path("Unary"), _GOOD, {"te": te, "x-call": call}) for te in (None, "gzip")]
    assert OK not in {reply.status for reply in await asyncio.gather(*calls)}
    assert (await fate(probe, call)).started == 0


async def test_bad_base64(host: Probe, surviving: Wire) -> None:
    """
    A binary value that is not base64 reaches no handler.
    """
    reply = await surviving.call(path("Unary"), _GOOD, {"x-trailing-a-bin": "!!!"})
    assert reply.status == BAD_BASE64.on(host.host)
    assert "x-trailing-a-bin" not in reply.trailers


async def test_header_that_is_not_ascii(host: Probe, surviving: Wire) -> None:
    """
    HTTP allows it, gRPC does not: the call is served all the same, and those after it.
    """
    replies = [await surviving.call(path("Unary"), _GOOD, {"x-odd": "a\xff", "x-request-id": "\xff"}) for _ in range(3)]
    assert {reply.status for reply in replies} == {OK}
    assert "RecursionError" not in host.log.read_text()


@pytest.mark.parametrize("odd", ["/Un%61ry", "/Unary?a=1", "/Unary/", "//Unary", "/./Unary", "/unary", "/Unary#a", ""])
async def test_exact_path(surviving: Wire, odd: str) -> None:
    """
    A method has exactly one path: rules of a gateway that go by paths cannot be walked round by another spelling.
    """
    reply = await surviving.call(path("").rstrip("/") + odd, _GOOD)
    assert reply.status in {UNIMPLEMENTED, INTERNAL, None}
    assert not reply.body


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("odd", ["/%ff%fe", "/%c3", "?a=%ff", "/\xff", "/%zz", "/%00"])
async def test_path_that_is_not_utf_8(host: Probe, surviving: Wire, odd: str) -> None:
    """
    No method's either: answered like any other, whatever the verb, and nothing is logged.
    """
    if not odd.isascii() and not UNREADABLE_PATH.on(host.host):
        pytest.skip(UNREADABLE_PATH.why)
    reply = await surviving.call(path("Unary") + odd, _GOOD)
    assert reply.status in {UNIMPLEMENTED, INTERNAL}
    other = await surviving.call(path("Unary") + odd, _GOOD, {":method": "GET", "content-type": None})
    assert other.http in {"404", *NOT_POST.on(host.host)}


async def test_trailers_of_a_request(surviving: Wire, kind: str) -> None:
    """
    A request may end with trailers.
    """
    stream = surviving.begin(path(kind))
    surviving.data(stream, _GOOD)
    surviving.frame(HEADERS, END_HEADERS | END_STREAM, stream, hpack.encode([("x-a", "b")]))
    assert (await surviving.reply(stream)).status == OK


async def test_unheard_of_frames(surviving: Wire) -> None:
    """
    Frames of kinds that nobody knows are passed over.
    """
    surviving.frame(0xEE, 0xFF, 0, b"whatever")
    await surviving.ping()


_BREAKS = {
    "headers that do not decode": lambda wire: wire.frame(HEADERS, END_HEADERS, 1, b"\xff" * 8),
    "a frame beyond the limit": lambda wire: wire.data(wire.begin(path("Up")), bytes(17_000)),
    "noise": lambda wire: wire.write(random.Random(7).randbytes(1000)),  # noqa: S311 - any bytes will do
    "data of no stream": lambda wire: wire.frame(DATA, 0, 0, _GOOD),
}


@pytest.mark.parametrize("what", _BREAKS)
async def test_broken_connection(host: Probe, probe: Stub, what: str) -> None:
    """
    What breaks HTTP/2 itself ends no connection but the one that it came on.
    """
    other = asyncio.ensure_future(ask(probe, "Unary", pb.Ask(pause_ms=200), timeout=10))
    async with Wire.open(host.port) as wire:
        await wire.ping()
        _BREAKS[what](wire)
        await asyncio.sleep(0.1)
    await other
    await ask(probe, "Unary", timeout=10)


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 64])
async def test_other_protocols(host: Probe, probe: Stub, hello: bytes) -> None:
    """
    Who speaks HTTP/1, TLS or nothing known is sent away, and the process serves on.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    try:
        writer.write(hello)
        writer.write_eof()
        async with asyncio.timeout(10):
            assert not (await reader.read()).startswith(b"HTTP/1.1 200")
    finally:
        writer.close()
    await ask(probe, "Unary", timeout=10)
