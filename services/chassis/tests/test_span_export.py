"""
Spans reach a collector, and one that is away holds nothing up.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from services.chassis.clients.outgoing import outgoing
from services.chassis.errors import NotFound, Unavailable
from services.chassis.interceptors import standard
from services.chassis.observability.span_export import export_spans
from services.chassis.serving.context import Context
from services.chassis.settings import SettingsError
from services.chassis.tests.in_process import failure, path, unary, wired
from services.chassis.tests.otlp_collector import CLIENT, SERVER, collecting
from services.chassis.tests.test_tracing import PARENT, SPAN, TRACE


async def _missing(_request: bytes, _context: Context) -> bytes:
    raise NotFound("MODEL_NOT_FOUND", "namespaces/a/models/m")


async def _away(_request: bytes, _context: Context) -> bytes:
    raise Unavailable("AWAY", "away")


async def test_calls_and_outgoing_calls_are_spans() -> None:
    """
    The server's span hangs below its caller's, the client's below that, each with its method and its status.
    """
    with collecting() as collector:
        async with (
            export_spans(collector.endpoint, "services.test", 0) as spans,
            wired(Behind=unary(_missing)) as further,
        ):

            async def before(request: bytes, _context: Context) -> bytes:
                with outgoing(path("Behind")) as metadata:
                    await failure(further.unary_unary(path("Behind"))(request, metadata=metadata))
                    raise NotFound("MODEL_NOT_FOUND", "namespaces/a/models/m")

            interceptors = standard(spans=spans)
            async with wired(Before=unary(before), Away=unary(_away), interceptors=interceptors) as channel:
                metadata = (("traceparent", PARENT), ("x-request-id", "id-1"))
                await failure(channel.unary_unary(path("Before"))(b"", metadata=metadata))
                await failure(channel.unary_unary(path("Away"))(b"", metadata=metadata))
        client, server, away = collector.of(TRACE)
    assert [each.name for each in (client, server, away)] == ["test.Yard/Behind", "test.Yard/Before", "test.Yard/Away"]
    assert (server.kind, server.parent, server.program) == (SERVER, SPAN, "services.test")
    assert (client.kind, client.parent) == (CLIENT, server.span_id)
    assert server.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "test.Yard",
        "rpc.method": "Before",
        "rpc.grpc.status_code": 5,
        "modelyard.request_id": "id-1",
    }
    # What is missing is no failure of the server.
    assert (client.failed, server.failed, away.failed) == (True, False, True)


async def test_what_the_caller_does_not_sample_is_not_exported() -> None:
    """
    The caller's decision counts; its trace goes on nevertheless.
    """
    told: list[str] = []

    async def handler(request: bytes, _context: Context) -> bytes:
        with outgoing(path("Do")) as metadata:
            told.append(dict(metadata)["traceparent"])
        return request

    with collecting() as collector:
        async with export_spans(collector.endpoint, "services.test", 0) as spans:
            interceptors = standard(spans=spans)
            async with wired(Do=unary(handler), interceptors=interceptors) as channel:
                await channel.unary_unary(path("Do"))(b"", metadata=(("traceparent", PARENT[:-1] + "0"),))
        assert not collector.spans
    assert told[0].startswith(f"00-{TRACE}-")
    assert told[0].endswith("-00")


async def test_a_collector_that_is_away_holds_nothing_up() -> None:
    """
    Calls are answered, and the process ends when its time for sending what is left is over.
    """

    async def handler(request: bytes, _context: Context) -> bytes:
        return request

    async with export_spans("http://127.0.0.1:1", "services.test", 0) as spans:
        async with wired(Do=unary(handler), interceptors=standard(spans=spans)) as channel:
            async with asyncio.timeout(5):
                assert await channel.unary_unary(path("Do"))(b"x") == b"x"
        ending = time.monotonic()
    assert time.monotonic() - ending < 20


async def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A setting that needs more than there is stops the start with a way out.
    """
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "services.chassis.observability.otlp", raising=False)
    with pytest.raises(SettingsError, match=r"MODELYARD_OTLP_ENDPOINT needs .*requirements/otlp"):
        async with export_spans("http://127.0.0.1:1", "services.test", 0):
            pass


def test_nothing_is_imported_when_it_is_off() -> None:
    """
    A worker without the setting does not load OpenTelemetry's SDK.
    """
    code = "import sys, services.chassis.serving.worker; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
