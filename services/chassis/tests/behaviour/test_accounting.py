"""
What clients see is what is counted and logged, whether a call reached a handler or not.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.chassis.observability.metrics import go_name
from services.chassis.tests.behaviour.client import Stub, ask, eventually, failure, path
from services.chassis.tests.behaviour.differences import (
    CANCELLED,
    INTERNAL,
    OK,
    QUEUED,
    RESOURCE_EXHAUSTED,
    TOO_LARGE_IS_COUNTED_AS,
    UNIMPLEMENTED,
    UNKNOWN,
)
from services.chassis.tests.behaviour.probe_process import LIMIT, Probe
from services.chassis.tests.behaviour.wire import Wire, message
from services.chassis.tests.proto import probe_pb2 as pb

_GOOD = message(pb.Ask(text="a", answers=1).SerializeToString())
_NAMES = {code.value[0]: go_name(code) for code in grpc.StatusCode}
_SECONDS = "grpc_server_handling_seconds_sum"


class Page:
    """
    The metrics of the shared probe.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    async def samples(self) -> list[Any]:
        return _parsed(await asyncio.to_thread(self._text))

    def _text(self) -> str:
        with urllib.request.urlopen(self._url, timeout=10) as page:  # noqa: S310 - our own page
            return str(page.read().decode())

    async def value(self, name: str, method: str) -> float:
        return sum(
            float(sample.value)
            for sample in await self._of_method(method)
            if sample.name == name and sample.labels["grpc_method"] == method
        )

    async def _of_method(self, method: str) -> list[Any]:
        # Histograms are most of the page, and the parser is slow.
        lines = (await asyncio.to_thread(self._text)).splitlines(keepends=True)
        return _parsed("".join(line for line in lines if f'"{method}"' in line and "_bucket{" not in line))

    async def codes(self, method: str) -> Counter[str]:
        """
        How many calls ended how, once none is in flight.
        """
        found: Counter[str] = Counter()

        async def quiet() -> bool:
            found.clear()
            running = 0.0
            for sample in await self._of_method(method):
                if sample.labels.get("grpc_method") == method:
                    if sample.name == "grpc_server_handled_total":
                        found[sample.labels["grpc_code"]] = int(sample.value)
                    running += sample.value if sample.name == "grpc_server_in_flight" else 0
            return running == 0

        await eventually(quiet)
        return found


def _parsed(text: str) -> list[Any]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@pytest.fixture
def page(host: Probe) -> Page:
    """
    The metrics of the shared probe.
    """
    return Page(host.metrics[0])


_REFUSED: dict[str, tuple[bytes, Mapping[str, str | None]]] = {
    "a request that does not parse": (message(b"\xff\xff\xff"), {}),
    "an encoding that nobody knows": (_GOOD, {"grpc-encoding": "lzw"}),
    "no promise to read trailers": (_GOOD, {"te": None}),
    "two messages": (_GOOD + _GOOD, {}),
    "a strange flag": (message(b"", flag=7), {"grpc-timeout": "300m"}),
}


@pytest.mark.parametrize("what", _REFUSED)
async def test_what_is_refused_before_its_handler_is_counted(host: Probe, page: Page, wire: Wire, what: str) -> None:
    """
    A call that reaches no handler counts once, under the status that its client gets.
    """
    body, headers = _REFUSED[what]
    before = await page.codes("Unary")
    started = await page.value("grpc_server_started_total", "Unary")
    status = (await wire.call(path("Unary"), body, headers)).status
    counted = await page.codes("Unary") - before
    if host.host == "grpcio" and (status in {INTERNAL, None} or what == "a strange flag"):
        # Its core refuses some by itself, and tells nobody.
        assert counted.total() <= 1
        return
    assert status is not None
    assert counted == {_NAMES[status]: 1}
    assert await page.value("grpc_server_started_total", "Unary") - started == 1


async def test_a_request_that_is_too_large_is_counted(host: Probe, page: Page, probe: Stub) -> None:
    """
    A request beyond the limit counts once.
    """
    before = await page.codes("Unary")
    error = await failure(ask(probe, "Unary", pb.Ask(payload=bytes(LIMIT + 1)), timeout=30))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await page.codes("Unary") - before == {_NAMES[TOO_LARGE_IS_COUNTED_AS.on(host.host)]: 1}


@pytest.mark.parametrize("kind", ["Unary", "Down"])
async def test_an_answer_that_is_too_large_is_no_success(host: Probe, page: Page, probe: Stub, kind: str) -> None:
    """
    A handler that has answered with more than may be sent counts, and is logged, as its client sees it.
    """
    before, lines = await page.codes(kind), len(_lines(host))
    error = await failure(ask(probe, kind, pb.Ask(answers=1, answer_bytes=LIMIT + 1), timeout=30))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await page.codes(kind) - before == {_NAMES[RESOURCE_EXHAUSTED]: 1}
    assert [(line["method"], line["code"]) for line in _lines(host)[lines:]] == [(kind, "RESOURCE_EXHAUSTED")]


async def test_made_up_names_count_together(page: Page, wire: Wire) -> None:
    """
    Calls of what nobody serves are counted under one name: anybody could make a series with each call.
    """
    names = [f"/made.up/M{number}" for number in range(20)] + [path("Made")]
    before, series = await page.codes("unknown"), len(await page.samples())
    replies = await asyncio.gather(*(wire.call(each, _GOOD) for each in names))
    assert {reply.status for reply in replies} == {UNIMPLEMENTED}
    assert await page.codes("unknown") - before == {_NAMES[UNIMPLEMENTED]: len(names)}
    assert len(await page.samples()) <= series + 1  # the code, if it is the first of its kind


async def test_what_is_not_grpc_is_counted(host: Probe, page: Page, wire: Wire) -> None:
    """
    What is answered in HTTP's terms counts, too: as clients of gRPC read such a status.
    """
    if host.host == "grpcio":
        pytest.skip("grpcio answers it within its core: see differences.NOT_GRPC")
    before = await page.codes("Unary")
    reply = await wire.call(path("Unary"), _GOOD, {"content-type": "text/plain"})
    assert reply.http == "415"
    assert await page.codes("Unary") - before == {_NAMES[UNKNOWN]: 1}


async def test_a_client_that_leaves_early_is_counted(host: Probe, page: Page, wire: Wire) -> None:
    """
    A call that is cancelled while its request is coming in counts as Canceled.
    """
    before = await page.codes("Unary")
    started = await page.value("grpc_server_started_total", "Unary")

    async def has_started() -> bool:
        return await page.value("grpc_server_started_total", "Unary") > started

    stream = wire.begin(path("Unary"))
    wire.data(stream, _GOOD[:4])
    await eventually(has_started)
    wire.reset(stream)
    assert await page.codes("Unary") - before == {_NAMES[CANCELLED]: 1}


async def test_the_clock_starts_when_a_call_arrives(host: Probe, page: Page, probe: Stub, wire: Wire) -> None:
    """
    A call that waits because the event loop is busy took as long as its client waited.
    """
    await ask(probe, "Unary", timeout=10)
    before = await page.value(_SECONDS, "Fate")
    blocking = wire.begin(path("Unary"), {"x-block-ms": "600"})
    wire.data(blocking, _GOOD, end=True)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await probe.Fate(pb.FateRequest(call="nobody"), timeout=10)
    waited = time.monotonic() - began
    assert (await wire.reply(blocking)).status == OK
    assert waited > 0.3, "it did not wait"
    counted = await page.value(_SECONDS, "Fate") - before
    assert (counted > 0.8 * waited) is QUEUED.on(host.host)
    assert counted < waited + 0.05


async def test_nobody_else_starts_the_clock(page: Page, wire: Wire) -> None:
    """
    What a client says of when its call arrived counts for nothing, and no handler sees when it did.
    """
    before = await page.value(_SECONDS, "Unary")
    request = pb.Ask(keys=True).SerializeToString()
    for said in ("0", "9999999999", "x"):
        reply = await wire.call(path("Unary"), message(request), {"x-modelyard-arrival": said})
        assert reply.status == OK
        await page.codes("Unary")
        counted = await page.value(_SECONDS, "Unary") - before
        assert 0 <= counted < 10


async def test_handlers_do_not_see_when_a_call_arrived(host: Probe, probe: Stub) -> None:
    """
    The metadata is the caller's.
    """
    answer = await ask(probe, "Unary", pb.Ask(keys=True), metadata=(("x-a", "b"),), timeout=10)
    assert "x-a" in answer.keys
    assert "x-modelyard-arrival" not in answer.keys


async def test_what_is_refused_is_logged(host: Probe, wire: Wire) -> None:
    """
    A call that reaches no handler leaves a line with its method, status and peer.
    """
    lines = len(_lines(host))
    await wire.call("/made.up/Name", _GOOD)

    async def logged() -> bool:
        return len(_lines(host)) > lines

    await eventually(logged)
    (line,) = _lines(host)[lines:]
    assert (line["service"], line["method"], line["code"]) == ("unknown", "unknown", "UNIMPLEMENTED")
    assert line["level"] == "INFO"
    if host.host == "envoy":
        assert line["client"] == "127.0.0.1"
        assert line["request_id"]


def _lines(host: Probe) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in host.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["logger"] == "services.chassis.observability.call_recorder"]
