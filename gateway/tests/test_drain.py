"""
How a gateway ends: its clients' connections during a drain.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from embedded.s3 import S3
from gateway.tests import harness
from services.chassis.tests.behaviour.wire import Reply, Wire


async def test_idle_connections_receive_goaway(tmp_path: Path) -> None:
    """
    Without a delay: a connection without a request receives GOAWAY before it is closed, a request that was under way by
    then is served, and the last GOAWAY has its number.
    """
    with ExitStack() as stack:
        edge = stack.enter_context(harness.gateway(S3(tmp_path, 1), tmp_path / "gateway", drain_seconds=20))
        async with Wire.open(edge.port) as wire:
            assert (await wire.reply(_ask(wire))).http == "200"
            ending = asyncio.create_task(asyncio.to_thread(stack.close))
            assert await wire.goaway() > 1000
            late = _ask(wire)
            reply: Reply = await wire.reply(late)
            assert reply.http == "200"
            assert await wire.goaway() == late
            await ending
            async with asyncio.timeout(10):
                await wire.closed.wait()


def _ask(wire: Wire) -> int:
    return wire.begin("/healthz", {":method": "GET", "te": None, "content-type": None}, end=True)
