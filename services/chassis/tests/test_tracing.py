"""
A call goes on with the trace of its caller, and what is called on its behalf goes on with that.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.chassis.clients.outgoing import outgoing
from services.chassis.interceptors import current_call
from services.chassis.observability.logs import setup
from services.chassis.observability.tracing import Trace, received
from services.chassis.serving.context import Context
from services.chassis.settings import LogFormat, LogLevel
from services.chassis.tests.in_process import path, unary, wired

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

_log = logging.getLogger("services.test")


@asynccontextmanager
async def two() -> AsyncIterator[Any]:
    """
    A service whose one method answers with the metadata that another one, which it calls, has received.
    """

    async def behind(_request: bytes, context: Context) -> bytes:
        return json.dumps([pair for pair in context.invocation_metadata() or () if isinstance(pair[1], str)]).encode()

    async with wired(Do=unary(behind)) as further:

        async def before(request: bytes, _context: Context) -> bytes:
            _log.info("asking")
            with outgoing(path("Do")) as metadata:
                told: bytes = await further.unary_unary(path("Do"))(request, metadata=metadata)
            call = current_call()
            assert call is not None
            return json.dumps({"own": call.trace.span_id, "id": call.request_id, "told": json.loads(told)}).encode()

        async with wired(Do=unary(before)) as channel:
            yield channel


async def _asked(channel: Any, *metadata: tuple[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    answer = json.loads(await channel.unary_unary(path("Do"))(b"", metadata=metadata))
    return answer, dict(answer["told"])


async def test_the_trace_of_the_caller_goes_on() -> None:
    """
    An outgoing call has the caller's trace, flags, state and request id, and a place of its own below the call's.
    """
    async with two() as channel:
        answer, told = await _asked(
            channel, ("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2"), ("x-request-id", "id-1")
        )
    parent = received(told.items())
    assert parent is not None
    assert (parent.trace_id, parent.flags, parent.state) == (TRACE, 1, "a=1,b=2")
    assert len({parent.span_id, answer["own"], SPAN}) == 3
    assert told["x-request-id"] == "id-1"


@pytest.mark.parametrize("sent", ["", "nonsense", PARENT.upper(), f"00-{'0' * 32}-{SPAN}-01"])
async def test_a_trace_begins_where_none_can_be_read(sent: str) -> None:
    """
    Without a traceparent, or with a malformed one, the call begins a trace, and a state without it counts for nothing.
    """
    metadata = [("traceparent", sent)] if sent else []
    async with two() as channel:
        _, told = await _asked(channel, *metadata, ("tracestate", "a=1"))
        _, again = await _asked(channel, *metadata)
    first, second = received(told.items()), received(again.items())
    assert first is not None
    assert second is not None
    assert first.trace_id not in {TRACE, second.trace_id, "0" * 32}
    assert (first.flags, first.state) == (0, "")


def test_two_parents_are_none() -> None:
    """
    Which of two traceparents is meant nobody knows.
    """
    assert received([("traceparent", PARENT), ("traceparent", PARENT)]) is None


@pytest.mark.parametrize(
    ("header", "place"),
    [
        (PARENT, Trace(TRACE, SPAN, 1)),
        (f"00-{TRACE}-{SPAN}-00", Trace(TRACE, SPAN, 0)),
        (f" {PARENT}\t", Trace(TRACE, SPAN, 1)),
        # Only the flags that are known go on.
        (f"00-{TRACE}-{SPAN}-ff", Trace(TRACE, SPAN, 3)),
        # A later version is read as far as it is known.
        (f"cc-{TRACE}-{SPAN}-01", Trace(TRACE, SPAN, 1)),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", Trace(TRACE, SPAN, 1)),
        (f"cc-{TRACE}-{SPAN}-01.what", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"{PARENT}-more", None),
        (f"{PARENT}-", None),
        (PARENT[:-1], None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        (f"0-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-0g", None),
        (f"00_{TRACE}_{SPAN}_01", None),
    ],
)
def test_traceparents(header: str, place: Trace | None) -> None:
    """
    As W3C Trace Context, section 3.2, has it.
    """
    assert received([("traceparent", header)]) == place


@pytest.mark.parametrize("state", ["a=" + "x" * 511, "a=ä", "a=1\x7f"])
def test_a_state_that_is_no_header_is_dropped(state: str) -> None:
    """
    The trace goes on without it.
    """
    assert received([("traceparent", PARENT), ("tracestate", state)]) == Trace(TRACE, SPAN, 1)


async def test_every_record_of_a_call_says_where_it_is(lines: io.StringIO) -> None:
    """
    Records of both services have the trace; those of one call have the same span, and say who calls.
    """
    async with two() as channel:
        answer, _ = await _asked(channel, ("traceparent", PARENT), ("x-modelyard-subject", "ada"))
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    (asking,) = [record for record in records if record["logger"] == "services.test"]
    # A call may be recorded before or after the one that it makes.
    ended = [record for record in records if record["logger"] == "services.chassis.observability.call_recorder"]
    behind, before = sorted(ended, key=lambda record: str(record["caller"]))
    assert {record["trace_id"] for record in (asking, behind, before)} == {TRACE}
    assert asking["span_id"] == before["span_id"] == answer["own"] != behind["span_id"]
    assert (before["caller"], behind["caller"]) == ("ada", "")


async def test_people_see_it_too() -> None:
    """
    Text for a terminal ends with the request id and the trace.
    """
    stream, handler = io.StringIO(), logging.getLogger().handlers[:]
    setup(LogFormat.TEXT, LogLevel.INFO, stream=stream)
    try:
        async with two() as channel:
            await _asked(channel, ("traceparent", PARENT), ("x-request-id", "id-1"))
    finally:
        logging.getLogger().handlers[:] = handler
    assert stream.getvalue().endswith(f"asking  [id-1 {TRACE}]\n")


def test_outside_of_calls_a_trace_begins() -> None:
    """
    Work in the background has a trace, and no request id that nobody has sent.
    """
    with outgoing(path("Do")) as first, outgoing(path("Do")) as second:
        assert [key for key, _ in first] == ["traceparent"]
        assert first != second
