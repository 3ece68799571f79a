"""
The one suite for both hosts: each test runs against a probe on the Envoy host and against one on grpcio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import grpc
import pytest

from services.chassis.hosts import envoy
from services.chassis.tests.behaviour.client import KINDS, Stub, channel_to, path
from services.chassis.tests.behaviour.differences import OK
from services.chassis.tests.behaviour.probe_process import Probe, running
from services.chassis.tests.behaviour.wire import Wire, message

# What the log of a process in good order never holds: lost tasks, lost exceptions, callbacks that failed.
_NEVER = ("never retrieved", "never awaited", "was destroyed", "Exception in callback", "InvalidStateError", "Fatal")
# grpcio's own: it prepares a coroutine that a handler which is cancelled at once does not come to await.
_HARMLESS = "'_MessageReceiver._async_message_receiver' was never awaited"


@pytest.fixture(scope="session", params=["envoy", "grpcio"])
def host_name(request: pytest.FixtureRequest) -> str:
    """
    The host to test.
    """
    found: str = request.param
    if found == "envoy" and (lacks := envoy.missing()) is not None:
        pytest.skip(f"the Envoy host cannot run here: {lacks}")
    return found


@pytest.fixture(scope="session")
async def probes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[str], Awaitable[Probe]]]:
    """
    Gives the probe on a host, which is started when it is asked for first and serves to the end, with a second worker
    for the tests that need one in peace. In the end it has to be in good order.
    """
    started: dict[str, Probe] = {}
    async with AsyncExitStack() as stack:

        async def on(host_name: str) -> Probe:
            if host_name not in started:
                probe = running(host_name, tmp_path_factory.mktemp("probe"), workers=2)
                started[host_name] = await stack.enter_async_context(probe)
            return started[host_name]

        yield on
    for probe in started.values():
        lines = [line for line in probe.log.read_text().splitlines() if _HARMLESS not in line]
        assert not [line for line in lines if any(words in line for words in _NEVER)]


@pytest.fixture(scope="session")
async def host(host_name: str, probes: Callable[[str], Awaitable[Probe]]) -> Probe:
    """
    The probe that the tests of one host share.
    """
    return await probes(host_name)


@pytest.fixture
async def channel(host: Probe) -> AsyncIterator[grpc.aio.Channel]:
    """
    A channel to the shared probe.
    """
    async with channel_to(host.target) as channel:
        yield channel


@pytest.fixture
def probe(channel: grpc.aio.Channel) -> Stub:
    """
    The shared probe.
    """
    return Stub(channel)


@pytest.fixture
async def wire(host: Probe) -> AsyncIterator[Wire]:
    """
    A connection to the shared probe, for frames by hand.
    """
    async with Wire.open(host.port) as wire:
        yield wire


@pytest.fixture
async def surviving(wire: Wire) -> AsyncIterator[Wire]:
    """
    A connection that has to serve another call when the test is over.
    """
    yield wire
    assert (await wire.call(path("Unary"), message(b""))).status == OK


@pytest.fixture
def quiet(host: Probe) -> Iterator[None]:
    """
    Nothing that happens in the test is worth a traceback in the log.
    """
    before = host.log.stat().st_size
    yield
    assert b"Traceback" not in host.log.read_bytes()[before:]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """
    Each of the four kinds of calls in turn.
    """
    found: str = request.param
    return found
