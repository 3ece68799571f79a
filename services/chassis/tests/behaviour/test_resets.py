"""
Clients that cancel a lot.
"""

from __future__ import annotations

import asyncio

from services.chassis.tests.behaviour.client import Stub, ask, opened
from services.chassis.tests.proto import probe_pb2 as pb

_AT_ONCE = 100
# By default Envoy's codec ends a connection after 1,000 resets and 33 more per second.
_CANCELS = 1500


async def test_cancels_of_others(probe: Stub) -> None:
    """
    However many calls of a connection are cancelled, the others go on: a gateway's connection carries many clients'.
    """
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
