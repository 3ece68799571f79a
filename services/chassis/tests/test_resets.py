"""
Clients that cancel a lot.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.chassis.hosts import envoy
from services.chassis.tests.behaviour.client import Stub, ask, channel_to, opened
from services.chassis.tests.behaviour.probe_process import running
from services.chassis.tests.proto import probe_pb2 as pb

_AT_ONCE = 100
_CANCELS = 2000


@pytest.mark.parametrize("host", ["envoy", "grpcio"])
async def test_cancels_of_others(host: str, tmp_path: Path) -> None:
    """
    However many calls of a connection are cancelled, the others go on: a gateway's connection carries many clients'.
    """
    if host == "envoy" and (lacks := envoy.missing()) is not None:
        pytest.skip(f"the Envoy host cannot run here: {lacks}")
    async with running(host, tmp_path) as service, channel_to(service.target) as channel:
        probe = Stub(channel)
        other = opened(probe, "Both", timeout=60)
        for _ in range(_CANCELS // _AT_ONCE):
            await asyncio.gather(*(_cancel_after_first_answer(probe) for _ in range(_AT_ONCE)))
        await other.write(pb.Ask(text="still there"))
        assert (await other.read()).text == "still there"
        await other.done_writing()


async def _cancel_after_first_answer(probe: Stub) -> None:
    call = ask(probe, "Down", pb.Ask(answers=1000, answer_bytes=1, pause_ms=1), timeout=60)
    await call.read()
    call.cancel()
