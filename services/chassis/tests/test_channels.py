"""
Channels to other services under mutual TLS, to a real server that says whose certificate it was shown.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from embedded import handshake
from embedded.authority import Authority
from services.chassis.clients.channels import Peer
from services.chassis.serving.tls import Identity, server_credentials
from services.chassis.tests.in_process import failure, path

# Each channel has connections of its own, as if it were in a process of its own.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


async def _who(_request: bytes, context: Any) -> bytes:
    (shown,) = context.auth_context()["x509_pem_cert"]
    return str(x509.load_pem_x509_certificate(shown).serial_number).encode()


async def _count(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for number in range(40):
        yield str(number).encode()
        await asyncio.sleep(0.15)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(identity: Identity) -> AsyncIterator[str]:
    """
    The address of a server of two methods: Who and Count.
    """
    server = grpc.aio.server()
    methods = {
        "Who": grpc.unary_unary_rpc_method_handler(_who),
        "Count": grpc.unary_stream_rpc_method_handler(_count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(path("").split("/")[1], methods),))
    credentials = server_credentials(identity)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def method(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_unary(path(name), request_serializer=None, response_deserializer=None)


def stream_of(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_stream(path(name), request_serializer=None, response_deserializer=None)


async def who(peer: Peer) -> int:
    """
    The serial number of the certificate that a call shows.
    """
    return int(await peer.made(method, "Who")(b"", timeout=20))


async def test_a_renewed_certificate_is_shown_and_calls_go_on(authority: Authority) -> None:
    """
    Calls show the new certificate soon after it is there. Calls before, after and meanwhile do not fail, and a stream
    that began with the old one goes on to its end, also when there is a third.
    """
    server, own = authority.issue("server"), authority.issue("client")
    old = handshake.serial(own.certificate)
    async with serving(Identity(server)) as target:
        peer = Peer(target, Identity(own), _OPTIONS)
        assert await who(peer) == old
        stream: Any = peer.made(stream_of, "Count")(b"")
        read = asyncio.create_task(_all(stream))
        for _ in range(2):
            authority.issue("client")
            new, seen = handshake.serial(own.certificate), {old}
            async with asyncio.timeout(20):
                while new not in seen:
                    seen |= set(await asyncio.gather(*(who(peer) for _ in range(5))))
                    await asyncio.sleep(0.05)
            assert seen == {old, new}
            old = new
            gc.collect()
        assert not read.done()
        assert len(await read) == 40
        await peer.close()


async def _all(stream: Any) -> list[bytes]:
    return [message async for message in stream]


async def test_what_is_made_for_a_channel_is_made_once(authority: Authority) -> None:
    """
    A stub is kept for as long as its channel.
    """
    own = authority.issue("client")
    identity = Identity(own)
    peer = Peer("127.0.0.1:1", identity)
    first = peer.made(method, "Who")
    assert peer.made(method, "Who") is first
    assert peer.made(method, "Count") is not first
    authority.issue("client")
    await asyncio.sleep(1.1)
    assert peer.made(method, "Who") is not first
    await peer.close()


async def test_only_the_right_server_is_called(authority: Authority, tmp_path: Path) -> None:
    """
    A server whose certificate names another host, or is of another authority, gets no call.
    """
    own = Identity(authority.issue("client"))
    elsewhere = Identity(authority.issue("elsewhere", hosts=()))
    stranger = Identity(Authority(tmp_path / "other").issue("server"))
    for identity in (elsewhere, stranger):
        async with serving(identity) as target:
            peer = Peer(target, own, _OPTIONS)
            error = await failure(peer.made(method, "Who")(b"", timeout=20))
            await peer.close()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in (error.details() or "") or "Hostname" in (error.details() or "")


async def test_bad_renewals_leave_the_certificate_before(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Files that are not right are named in the log, once, and change nothing.
    """
    own = authority.issue("client")
    identity = Identity(own)
    before = identity.current()
    own.key.write_text("nonsense")
    for _ in range(2):
        await asyncio.sleep(1.1)
        assert identity.current() is before
    own.certificate.unlink()
    await asyncio.sleep(1.1)
    assert identity.current() is before
    (first, second) = [record.getMessage() for record in caplog.records]
    assert "MODELYARD_TLS_KEY_FILE" in first
    assert "nonsense" not in first
    assert str(own.certificate) in second
    authority.issue("client")
    await asyncio.sleep(1.1)
    assert identity.current().chain == own.certificate.read_bytes()


async def test_the_addresses_of_a_name_take_turns() -> None:
    """
    A name that stands for two servers, as in Kubernetes, means calls to both.
    """
    servers = [grpc.aio.server() for _ in range(2)]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server, port in zip(servers, ports, strict=True):

        async def say(_request: bytes, _context: Any, port: int = port) -> bytes:
            return str(port).encode()

        methods = {"Who": grpc.unary_unary_rpc_method_handler(say)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(path("").split("/")[1], methods),))
        await server.start()
    peer = Peer("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports), None, _OPTIONS)
    answered: set[int] = set()
    async with asyncio.timeout(20):
        while len(answered) < 2:
            answered.add(await who(peer))
    await peer.close()
    for server in servers:
        await server.stop(None)
