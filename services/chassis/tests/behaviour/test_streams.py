"""
How many streams there may be, and how long they may stay: against probes of their own, where calls need a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.access.tokens import LEEWAY
from services.chassis.tests.behaviour.client import EOF, Stub, channel_to, eventually
from services.chassis.tests.behaviour.probe_process import Probe, running
from services.chassis.tests.in_process import details, failure
from services.chassis.tests.proto import probe_pb2 as pb
from tests.tokens import Issuer, settings

_MOST, _PER_CLIENT = 8, 5
_LONG = pb.Ask(answers=1_000_000, pause_ms=20)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer") / "jwks.json")


@pytest.fixture(scope="module")
async def guarded(host_name: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Probe]:
    """
    A probe that wants tokens, with few streams.
    """
    environment: dict[str, Any] = {
        **settings(issuer),
        "MODELYARD_STREAMS_MOST": str(_MOST),
        "MODELYARD_STREAMS_PER_CLIENT": str(_PER_CLIENT),
    }
    async with running(host_name, tmp_path_factory.mktemp("guarded"), **environment) as probe:
        yield probe


@pytest.fixture
async def stub(guarded: Probe) -> AsyncIterator[Stub]:
    async with channel_to(guarded.target) as channel:
        yield Stub(channel)


def bearing(token: str) -> Any:
    """
    The metadata of a call with a token.
    """
    return (("authorization", f"Bearer {token}"),)


def nearly_over(issuer: Issuer, seconds: float) -> str:
    """
    A token that is taken for so many seconds.
    """
    return issuer.mint("probe", exp=int(time.time() - LEEWAY + seconds + 0.999))


def opened(stub: Stub, kind: str, token: str) -> Any:
    """
    A call that goes on for ever.
    """
    if kind == "Down":
        return stub.Down(_LONG, metadata=bearing(token))
    call: Any = getattr(stub, kind)(metadata=bearing(token))
    return call


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """
    How it ends, whatever it answers before.
    """
    try:
        async with asyncio.timeout(20):
            if hasattr(call, "read"):
                while await call.read() is not EOF:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error.code(), details(error)["ErrorInfo"].reason
    raise AssertionError("it ended well")


async def test_watching_health_with_a_token_ends_with_it(guarded: Probe, issuer: Issuer) -> None:
    """
    A token is not needed for it here, but at the gateway; without one, or with a bad one, it goes on.
    """
    async with channel_to(guarded.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        request = health_pb2.HealthCheckRequest()
        open_ended = [watch(request), watch(request, metadata=bearing("nonsense"))]
        assert [(await each.read()).status for each in open_ended] == [health_pb2.HealthCheckResponse.SERVING] * 2
        call = watch(request, metadata=bearing(nearly_over(issuer, 1)))
        assert await ended(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        assert not any(each.done() for each in open_ended)
        for each in open_ended:
            each.cancel()


@pytest.mark.parametrize("kind", ["Down", "Up", "Both"])
async def test_a_stream_ends_when_its_token_does(stub: Stub, issuer: Issuer, kind: str) -> None:
    """
    Whoever is only read to, only sends, or does both, hears UNAUTHENTICATED with the reason as soon as a new call with
    the token would, and one with a better token goes on.
    """
    other = opened(stub, "Both", issuer.mint("probe"))
    await other.write(pb.Ask(text="before"))
    call = opened(stub, kind, nearly_over(issuer, 1))
    if kind != "Down":
        await call.write(pb.Ask(text="one"))
    assert await ended(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
    await other.write(pb.Ask(text="after"))
    await other.done_writing()
    assert [(await other.read()).text for _ in range(2)] == ["before", "after"]


async def test_a_client_that_does_not_read_gets_no_more_than_is_on_its_way(stub: Stub, issuer: Issuer) -> None:
    """
    A stream that waits for its client when its token ends is ended when the client reads on.
    """
    call: Any = stub.Down(pb.Ask(answers=2000, answer_bytes=1 << 20), metadata=bearing(nearly_over(issuer, 1)))
    await call.read()
    await asyncio.sleep(2.5)
    assert await ended(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_a_client_has_so_many_streams(stub: Stub, issuer: Issuer) -> None:
    """
    Beyond its own bound a client hears RESOURCE_EXHAUSTED with the limit's name, beyond that of all of them, so do
    others; unary calls go on, and when some are closed, there is room again.
    """
    ann, ben = issuer.mint("probe", sub="ann"), issuer.mint("probe", sub="ben")
    calls = [opened(stub, "Down", ann) for _ in range(_PER_CLIENT)]
    for call in calls:
        await call.read()
    error = await failure(opened(stub, "Down", ann).read())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["ErrorInfo"].metadata["setting"] == "MODELYARD_STREAMS_PER_CLIENT"
    others = [opened(stub, "Down", ben) for _ in range(_MOST - _PER_CLIENT)]
    for call in others:
        await call.read()
    error = await failure(opened(stub, "Down", ben).read())
    assert details(error)["ErrorInfo"].metadata["setting"] == "MODELYARD_STREAMS_MOST"
    assert (await stub.Unary(pb.Ask(text="well"), metadata=bearing(ann))).text == "well"
    for call in (*calls, *others):
        call.cancel()

    async def room() -> bool:
        call = opened(stub, "Down", ann)
        try:
            await call.read()
        except grpc.aio.AioRpcError:
            return False
        call.cancel()
        return True

    await eventually(room)


# The last one: the keys are others afterwards.
async def test_a_stream_ends_when_its_key_is_withdrawn(stub: Stub, issuer: Issuer) -> None:
    """
    Within the time in which the keys are read again (a file: a second) a stream whose key is gone ends, and calls with
    the new key are taken.
    """
    calls = [opened(stub, kind, issuer.mint("probe")) for kind in ("Down", "Up", "Both")]
    for call in calls[1:]:
        await call.write(pb.Ask(text="one"))
    await calls[0].read()
    fresh = Issuer(issuer.file, "two")
    found = await asyncio.gather(*map(ended, calls))
    assert set(found) == {(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")}
    assert (await stub.Unary(pb.Ask(text="well"), metadata=bearing(fresh.mint("probe")))).text == "well"
    issuer.__dict__.update(fresh.__dict__)
