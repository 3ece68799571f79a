"""
A service with a certificate: whom it lets in, and how it takes a new one. And its health over HTTP.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from embedded import handshake
from embedded.authority import Authority
from services.chassis.serving.tls import channel_credentials
from services.chassis.settings.tls import TlsFiles
from services.chassis.tests.behaviour.client import Stub, answers, ask, channel_to, failure
from services.chassis.tests.behaviour.probe_process import Probe, running
from services.chassis.tests.proto import probe_pb2 as pb

SOON = 10.0


@dataclass(frozen=True, slots=True)
class Secure:
    """
    A probe with a certificate.
    """

    probe: Probe
    authority: Authority
    own: TlsFiles
    caller: TlsFiles

    def channel(self) -> grpc.aio.Channel:
        """
        Of a caller that is let in.
        """
        return channel_to(self.probe.target, credentials=channel_credentials(self.caller.read()))

    async def shown(self) -> int:
        """
        The serial number of the certificate that a new connection is shown.
        """
        client = handshake.context(self.own.authority, self.caller)
        return (await asyncio.to_thread(handshake.shake, self.probe.port, client)).serial


@pytest.fixture(scope="session")
async def secure(host_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secure]:
    """
    A probe with a certificate, for the tests of one host.
    """
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder / "authority")
    own, caller = authority.issue("probe"), authority.issue("caller")
    async with running(host_name, folder, tls=own) as probe:
        yield Secure(probe, authority, own, caller)


async def test_all_kinds_of_calls_go_through(secure: Secure, kind: str) -> None:
    """
    A caller with a certificate of the authority makes calls of all four kinds.
    """
    async with secure.channel() as channel:
        assert await answers(ask(Stub(channel), kind, pb.Ask(answers=2, answer_bytes=100_000)))


async def test_others_are_not_let_in(secure: Secure, tmp_path: Path) -> None:
    """
    Plain text, no certificate, and a certificate of another authority are refused before any call begins.
    """
    stranger = Authority(tmp_path).issue("caller").read()
    ca = secure.own.authority.read_bytes()
    for credentials in (
        None,
        grpc.ssl_channel_credentials(ca),
        grpc.ssl_channel_credentials(ca, stranger.key, stranger.chain),
    ):
        async with channel_to(secure.probe.target, credentials=credentials) as channel:
            error = await failure(Stub(channel).Unary(pb.Ask(), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()


async def test_versions(secure: Secure) -> None:
    """
    TLS 1.2 and 1.3 are spoken, with HTTP/2 by ALPN; TLS 1.1 is refused.
    """
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = handshake.context(secure.own.authority, secure.caller, version)
        assert (await asyncio.to_thread(handshake.shake, secure.probe.port, client)).protocol == "h2"
    client = handshake.context(secure.own.authority, secure.caller, ssl.TLSVersion.TLSv1_1)
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNEXPECTED_EOF"):
        await asyncio.to_thread(handshake.shake, secure.probe.port, client)


async def test_a_new_certificate_is_taken_without_a_restart(secure: Secure) -> None:
    """
    While calls go on, over an old connection and over new ones, new connections come to be shown the new certificate.
    No call fails, and a stream that began before goes on. A certificate whose key is not there yet is not shown.
    """
    old = handshake.serial(secure.own.certificate)
    enough = asyncio.Event()

    async def call_on(channel: grpc.aio.Channel | None) -> int:
        count = 0
        while not enough.is_set():
            if channel is None:
                async with secure.channel() as fresh:
                    await Stub(fresh).Unary(pb.Ask(), timeout=30)
            else:
                await Stub(channel).Unary(pb.Ask(), timeout=30)
            count += 1
            await asyncio.sleep(0.05)
        return count

    async with secure.channel() as before:
        stream: Any = Stub(before).Both()  # type: ignore[call-arg]  # it is written to, below
        await stream.write(pb.Ask(text="before"))
        assert isinstance(await stream.read(), pb.Answer)
        calling = [asyncio.create_task(call_on(before)), asyncio.create_task(call_on(None))]

        renewed = secure.authority.issue("renewed")
        new = handshake.serial(renewed.certificate)
        renewed.certificate.replace(secure.own.certificate)
        await asyncio.sleep(1.5)
        assert await secure.shown() == old
        renewed.key.replace(secure.own.key)
        async with asyncio.timeout(SOON):
            while await secure.shown() != new:
                await asyncio.sleep(0.1)

        enough.set()
        assert all(count > 2 for count in await asyncio.gather(*calling))
        await stream.write(pb.Ask(text="after"))
        answer = await stream.read()
        assert isinstance(answer, pb.Answer)
        assert answer.text == "after"
        await stream.done_writing()


async def test_health_over_http(secure: Secure) -> None:
    """
    A service that nobody can ask in plain text answers probes beside its metrics, which show when its certificate ends.
    """
    page = f"http://127.0.0.1:{secure.probe.metrics[0]}"
    assert await asyncio.to_thread(_get, f"{page}/livez") == (200, "ok\n")
    assert await asyncio.to_thread(_get, f"{page}/readyz") == (200, "ok\n")
    _, metrics = await asyncio.to_thread(_get, f"{page}/metrics")
    found = re.search(r"^modelyard_certificate_expiry_timestamp_seconds (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == secure.own.read().expires.timestamp()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own page
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
