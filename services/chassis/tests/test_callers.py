"""
Whose word is taken for who calls.
"""

from __future__ import annotations

import asyncio
import ipaddress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.chassis.access.callers import Bounds, Proxies
from services.chassis.interceptors import StreamInterceptor, caller, standard
from services.chassis.serving.context import Context
from services.chassis.settings import CommonSettings, load
from services.chassis.tests.in_process import details, failure, path, server_stream, unary, wired

_NOBODY = Proxies(())
_SAID = (("x-modelyard-subject", "ceo"),)


async def _who(_request: bytes, _context: Context) -> bytes:
    return caller().encode()


@pytest.mark.parametrize(("proxies", "believed"), [(_NOBODY, b""), (Proxies(), b"ceo"), (Proxies((), True), b"ceo")])
async def test_only_a_gateway_says_who_calls(proxies: Proxies, believed: bytes) -> None:
    """
    While access control is off, x-modelyard-subject is believed of those who are trusted, and of nobody else.
    """
    async with wired(interceptors=standard(proxies=proxies), Who=unary(_who)) as channel:
        assert await channel.unary_unary(path("Who"))(b"", metadata=_SAID) == believed


def test_who_is_trusted() -> None:
    """
    By default those on this machine, and with mutual TLS everybody whom the handshake has let in.
    """
    peers = [
        "ipv4:127.0.0.1:5",
        "ipv6:%5B::1%5D:5",
        "ipv6:[::1]:5",
        "unix:/run/x",
        "ipv4:10.1.2.3:5",
        "ipv6:[::2]:5",
        "?",
    ]
    assert [Proxies().trust(peer) for peer in peers] == [True, True, True, True, False, False, False]
    found = load(CommonSettings, {"MODELYARD_TRUSTED_PROXIES": "10.1.0.0/16, fd00::/8"}).proxies()
    assert [found.trust(peer) for peer in peers] == [False, False, False, True, True, False, False]
    assert load(CommonSettings, {"MODELYARD_TLS_CA_FILE": "ca"}).proxies().trust("ipv4:10.1.2.3:5")
    assert found.trust("ipv6:[::ffff:10.1.0.1]:5")


@pytest.mark.parametrize(
    ("peer", "metadata", "client"),
    [
        ("ipv4:127.0.0.1:5", (), "127.0.0.1"),
        ("ipv4:127.0.0.1:5", (("x-modelyard-client", "10.0.0.9"), ("x-forwarded-for", "6.6.6.6")), "10.0.0.9"),
        ("ipv4:127.0.0.1:5", (("x-modelyard-client", "10.0.0.9"), ("x-modelyard-client", "6.6.6.6")), "127.0.0.1"),
        ("ipv4:10.0.0.7:5", (("x-modelyard-client", "6.6.6.6"),), "10.0.0.7"),
    ],
)
def test_a_clients_address(peer: str, metadata: Any, client: str) -> None:
    """
    It is what the gateway says, or else where the call comes from: a stranger does not choose its own.
    """
    context = SimpleNamespace(peer=lambda: peer, done=lambda: False, invocation_metadata=lambda: metadata)
    assert Proxies((ipaddress.IPv4Network("127.0.0.0/8"),)).client(cast("Context", context)) == client


async def test_clients_behind_a_gateway_have_bounds_of_their_own() -> None:
    """
    One that has all the streams that it may have does not take another's.
    """

    async def watch(_request: bytes, _context: Context) -> Any:
        yield b""
        await asyncio.sleep(60)

    streams = StreamInterceptor(Bounds(per_client=1), Proxies())
    interceptors = standard(streams=streams)
    async with wired(interceptors=interceptors, Watch=server_stream(watch)) as channel:
        call = channel.unary_stream(path("Watch"))
        held = [call(b"", metadata=(("x-modelyard-client", client),)) for client in ("10.0.0.1", "10.0.0.2")]
        assert [await each.read() for each in held] == [b"", b""]
        error = await failure(call(b"", metadata=(("x-modelyard-client", "10.0.0.1"),)).read())
        assert details(error)["ErrorInfo"].reason == "STREAMS_OPEN"
        for each in held:
            each.cancel()
