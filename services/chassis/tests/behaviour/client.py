"""
Short forms of what the tests do again and again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc

from services.chassis.tests.proto import probe_pb2 as pb

if TYPE_CHECKING:
    from services.chassis.tests.proto.probe_pb2_grpc import ProbeServiceAsyncStub as Stub
else:
    from services.chassis.tests.proto.probe_pb2_grpc import ProbeServiceStub as Stub

__all__ = [
    "BOTH",
    "DOWN",
    "EOF",
    "KINDS",
    "SERVICE",
    "UNARY",
    "UP",
    "Stub",
    "answers",
    "ask",
    "channel_to",
    "ended",
    "eventually",
    "failure",
    "fate",
    "name",
    "opened",
    "path",
    "sending",
]

SERVICE = "modelyard.test.v1.ProbeService"

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it

# One method of the probe for each kind of calls.
UNARY, DOWN, UP, BOTH = KINDS = ("Unary", "Down", "Up", "Both")

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The limits that are tested are the server's.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A connection of its own for each channel.
    ("grpc.use_local_subchannel_pool", 1),
    # What fails, fails in sight of the test.
    ("grpc.enable_retries", 0),
)


def channel_to(
    target: str, *options: tuple[str, Any], credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """
    An ordinary channel.
    """
    if credentials is not None:
        return grpc.aio.secure_channel(target, credentials, (*_OPTIONS, *options))
    return grpc.aio.insecure_channel(target, (*_OPTIONS, *options))


def path(method: str) -> str:
    """
    "/package.Service/Method".
    """
    return f"/{SERVICE}/{method}"


def name() -> str:
    """
    For a call whose fate will be asked for.
    """
    return uuid.uuid4().hex


def ask(probe: Stub, kind: str, request: pb.Ask | None = None, *, call: str = "", **options: Any) -> Any:
    """
    Start a call of *kind* that sends *request* and, where requests are a stream, nothing after it.

    Args:
        probe: the stub.
        kind: a method of the probe.
        request: what to ask for; by default, for one plain answer.
        call: its name.
        options: for grpc.
    """
    request = request or pb.Ask(answers=1)
    metadata = (*options.pop("metadata", ()), *([("x-call", call)] if call else ()))
    sent: Any = sending([request]) if "Up" in kind or "Both" in kind else request
    return getattr(probe, kind)(sent, metadata=metadata, **options)


def opened(probe: Stub, kind: str, *, call: str = "", **options: Any) -> Any:
    """
    Start a call of *kind*, whose requests are a stream, and send nothing yet.
    """
    return getattr(probe, kind)(metadata=(("x-call", call),) if call else None, **options)


async def sending(requests: Iterable[pb.Ask]) -> AsyncIterator[pb.Ask]:
    """
    *requests* as the request of a client stream.
    """
    for request in requests:
        yield request


async def answers(call: Any) -> list[pb.Answer]:
    """
    Everything that *call* answers, whatever its kind.
    """
    if hasattr(call, "__aiter__"):
        return [answer async for answer in call]
    return [await call]


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """
    The error with which *call* ends, whatever its kind.
    """
    try:
        found = await answers(call)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call succeeded: {str(found)[:200]}")


async def fate(probe: Stub, call: str) -> pb.FateResponse:
    """
    The outcome of the calls of that name so far.
    """
    return await probe.Fate(pb.FateRequest(call=call), timeout=10)


async def ended(probe: Stub, call: str, calls: int = 1) -> pb.FateResponse:
    """
    Wait until so many calls of that name have ended in every respect.
    """
    found = pb.FateResponse()

    async def has_ended() -> bool:
        nonlocal found
        found = await fate(probe, call)
        return found.started == found.done == found.finished + found.cancelled + found.failed == calls

    await eventually(has_ended, lambda: str(found))
    return found


async def eventually(holds: Callable[[], Awaitable[bool]], otherwise: Callable[[], str] = lambda: "") -> None:
    """
    Wait until *holds*; after ten seconds, fail with what *otherwise* says.
    """
    try:
        async with asyncio.timeout(10):
            while not await holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"in vain: {otherwise()}") from None
