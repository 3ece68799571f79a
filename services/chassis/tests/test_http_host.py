"""
The HTTP host: an ASGI application in the event loop of a process, with what every request gets.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from embedded.authority import Authority
from embedded.parts import free_port
from services.chassis.access.callers import Proxies
from services.chassis.hosts.http import HttpHost
from services.chassis.observability.http_metrics import HttpMetrics
from services.chassis.serving.health import Health
from services.chassis.serving.http_calls import READY, ROUTE, HttpCalls
from services.chassis.serving.tls import Identity
from services.chassis.settings import Address, CommonSettings
from services.chassis.settings.tls import TlsFiles


class App:
    """
    Answers by path.
    """

    def __init__(self) -> None:
        self.began, self.proceed = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        scope[ROUTE] = "probe"
        if scope["path"] == "/wait":
            self.began.set()
            await self.proceed.wait()
        if scope["path"] == "/fail":
            raise ValueError("a secret")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        if scope["path"] == "/half":
            await send({"type": "http.response.body", "body": b"ha", "more_body": True})
            raise ValueError("in the middle")
        await send({"type": "http.response.body", "body": b"done"})


class Running:
    def __init__(self, host: HttpHost, app: App, metrics: HttpMetrics, health: Health, port: int) -> None:
        self.host, self.app, self.metrics, self.health, self.port = host, app, metrics, health, port

    async def get(self, path: str, context: ssl.SSLContext | None = None, headers: str = "") -> bytes:
        """
        The whole response, head included.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        try:
            return await reader.read()
        finally:
            writer.close()

    async def accepts(self, context: ssl.SSLContext | None = None) -> bool:
        """
        Whether a new connection gets an answer.
        """
        try:
            return bool(await self.get("/x", context))
        except OSError:
            return False


@asynccontextmanager
async def running(files: TlsFiles | None = None) -> AsyncIterator[Running]:
    port, app, metrics, health = free_port(), App(), HttpMetrics(), Health()
    calls = HttpCalls(app, "modelyard.probe", health, metrics, Proxies())
    identity = None if files is None else Identity(files)
    host = HttpHost(calls, CommonSettings(listen=Address("127.0.0.1", port)), identity)
    await host.start()
    try:
        yield Running(host, app, metrics, health, port)
    finally:
        await host.drain(0)


def numbers(metrics: HttpMetrics) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["http_route"], sample.labels["http_response_status_code"]): sample.value
        for family in metrics.collect()
        if family.name == "http_server_requests"
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_and_status() -> None:
    """
    A request counts under the name of its route, and none is in flight afterwards.
    """
    async with running() as at:
        assert (await at.get("/x")).endswith(b"done")
        assert numbers(at.metrics) == {("probe", "200"): 1}
        active = next(each for each in at.metrics.collect() if each.name == "http_server_active_requests")
        assert all(sample.value == 0 for sample in active.samples)


async def test_a_failure_is_500_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """
    What an application raises becomes 500 without its text, which is logged with its traceback and the request id.
    """
    async with running() as at:
        with caplog.at_level(logging.ERROR):
            answer = await at.get("/fail", headers="X-Request-Id: mine\r\n")
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer
    assert b"x-request-id: mine" in answer
    assert "a secret" in caplog.text


async def test_a_response_that_fails_half_way_is_not_whole() -> None:
    """
    A response that fails after its beginning ends with a closed connection before its length is reached.
    """
    async with running() as at:
        assert not (await at.get("/half")).endswith(b"done")
        assert numbers(at.metrics) == {("probe", "500"): 1}


async def test_readiness_is_told_to_the_gateway() -> None:
    """
    The readiness path answers 503 until the dependencies answer, 200 then, and 503 in a drain.
    """
    async with running() as at:
        assert (await at.get(READY)).startswith(b"HTTP/1.1 503")
        async with at.health.watch_dependencies():
            assert (await at.get(READY)).startswith(b"HTTP/1.1 200")
            at.health.drain()
            assert (await at.get(READY)).startswith(b"HTTP/1.1 503")


async def test_a_drain_lets_requests_end() -> None:
    """
    A request in flight is answered in a drain, and no connection is accepted any more.
    """
    async with running() as at:
        asking = asyncio.create_task(at.get("/wait"))
        await at.app.began.wait()
        draining = asyncio.create_task(at.host.drain(10))
        while await at.accepts():
            await asyncio.sleep(0)
        at.app.proceed.set()
        assert (await asking).endswith(b"done")
        await draining


async def test_a_taken_port_is_an_error() -> None:
    """
    A port that somebody else listens on is an OSError with the address.
    """
    async with running() as at:
        other = HttpHost(at.app, CommonSettings(listen=Address("127.0.0.1", at.port)))
        with pytest.raises(OSError, match=f"127.0.0.1:{at.port}"):
            await other.start()


async def test_only_callers_with_a_certificate_get_in(tmp_path: Path) -> None:
    """
    With TLS, a caller needs a certificate of the same authority; a renewed certificate is served without a restart.
    """
    authority = Authority(tmp_path)
    files = authority.issue("doors")
    context = ssl.create_default_context(cafile=str(files.authority))
    async with running(files) as at:
        assert not await at.accepts(context)
        context.load_cert_chain(files.certificate, files.key)
        assert (await at.get("/x", context)).endswith(b"done")
