"""
Metadata, both ways.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from services.chassis.tests.behaviour.client import Stub, answers, ask, failure, path
from services.chassis.tests.behaviour.wire import Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_EVERY_BYTE = bytes(range(256))
_ASCII = "".join(map(chr, range(0x21, 0x7F)))

_THINGS = (
    ("plain", _ASCII),
    ("spaced", "a b  c"),
    ("listed", "a, b,c"),
    ("empty", ""),
    ("every-bin", _EVERY_BYTE),
    ("empty-bin", b""),
    ("short-bin", b"\x00"),
)


def _sent(where: str) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((f"x-{where}-{key}", value) for key, value in _THINGS)


def _of(where: str, metadata: Any) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in metadata if key.startswith(f"x-{where}-")]


async def test_both_ways(probe: Stub, kind: str) -> None:
    """
    Text and bytes arrive as they were sent: to the handler, in the initial and in the trailing metadata.
    """
    call = ask(probe, kind, metadata=_sent("initial") + _sent("trailing"), timeout=10)
    await answers(call)
    assert sorted(_of("initial", await call.initial_metadata())) == sorted(_sent("initial"))
    assert sorted(_of("trailing", await call.trailing_metadata())) == sorted(_sent("trailing"))


async def test_with_errors(probe: Stub, kind: str) -> None:
    """
    An error carries trailing metadata as an answer does.
    """
    trouble = pb.Ask(trouble=pb.TROUBLE_NOT_FOUND)
    error = await failure(ask(probe, kind, trouble, metadata=_sent("trailing"), timeout=10))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert sorted(_of("trailing", error.trailing_metadata())) == sorted(_sent("trailing"))


async def test_initial_with_errors(wire: Wire, kind: str) -> None:
    """
    An error keeps the initial metadata that was sent before it. (Looked at on the wire: the client of grpcio may lose
    it when the error comes close behind.)
    """
    trouble = message(pb.Ask(trouble=pb.TROUBLE_NOT_FOUND).SerializeToString())
    reply = await wire.call(path(kind), trouble, {"x-initial-a": "1", "x-initial-b-bin": "AAE"})
    assert reply.status == grpc.StatusCode.NOT_FOUND.value[0]
    assert (reply.headers["x-initial-a"], reply.headers["x-initial-b-bin"].rstrip("=")) == ("1", "AAE")


async def test_repeated_keys(probe: Stub) -> None:
    """
    Values of the same key keep their order.
    """
    sent = [("x-trailing-a", "1"), ("x-trailing-a-bin", b"3"), ("x-trailing-a", "2"), ("x-trailing-a-bin", b"4")]
    call = ask(probe, "Unary", metadata=sent, timeout=10)
    await call
    found = _of("trailing", await call.trailing_metadata())
    assert [value for key, value in found if key == "x-trailing-a"] == ["1", "2"]
    assert [value for key, value in found if key == "x-trailing-a-bin"] == [b"3", b"4"]


async def test_large(probe: Stub, kind: str) -> None:
    """
    Seven kilobytes of metadata, close to what clients accept by default, go both ways.
    """
    sent = (("x-initial-large", "i" * 3500), ("x-trailing-large-bin", _EVERY_BYTE * 10))
    call = ask(probe, kind, metadata=(*sent, ("x-trailing-large", "t" * 3500)), timeout=10)
    await answers(call)
    assert _of("initial", await call.initial_metadata()) == [sent[0]]
    assert len(_of("trailing", await call.trailing_metadata())) == 2


async def test_too_large(probe: Stub) -> None:
    """
    A call with far too much metadata is refused, and its connection serves the other calls.
    """
    other = asyncio.ensure_future(answers(ask(probe, "Unary", pb.Ask(pause_ms=300), timeout=10)))
    error = await failure(ask(probe, "Unary", metadata=[(f"x-{n}", "m" * 20_000) for n in range(10)], timeout=10))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await other
    await ask(probe, "Unary", timeout=10)


async def test_only_the_callers(probe: Stub) -> None:
    """
    Handlers see what the caller sent, in lower case, and nothing that belongs to HTTP/2 or to gRPC itself.
    """
    request = pb.Ask(keys=True)
    answer = await ask(probe, "Unary", request, metadata=[("x-a", "1"), ("x-b-bin", b"2")], timeout=10)
    assert set(answer.keys) - {"user-agent"} == {"x-a", "x-b-bin"}


async def test_initial_before_first_answer(probe: Stub) -> None:
    """
    The initial metadata that a handler sends arrives at once, not with its first answer.
    """
    request = pb.Ask(answers=1, pause_ms=60_000)
    for kind in ("Down", "Both"):
        call = ask(probe, kind, request, metadata=[("x-initial-a", "1")], timeout=60)
        async with asyncio.timeout(10):
            assert ("x-initial-a", "1") in list(await call.initial_metadata())
        call.cancel()


async def test_request_id(probe: Stub, kind: str) -> None:
    """
    Every call has a request id: the caller's, or one that is made for it; in errors, too.
    """
    own = ask(probe, kind, metadata=[("x-request-id", "my-id")], timeout=10)
    await answers(own)
    assert ("x-request-id", "my-id") in list(await own.trailing_metadata())
    made = ask(probe, kind, timeout=10)
    await answers(made)
    assert dict(list(await made.trailing_metadata()))["x-request-id"]
    error: Any = await failure(ask(probe, kind, pb.Ask(trouble=pb.TROUBLE_BUG), timeout=10))
    assert dict(list(error.trailing_metadata()))["x-request-id"]
