"""
Attacks that the gateway has to withstand, each bounded in time and count, with the response that it must get.

Sources: RFC 9113, section 10.5; CVE-2023-44487 (rapid reset); CVE-2024-27919 (CONTINUATION flood); slowloris (2009).
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import grpc

from modelyard import aio, explain
from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from modelyard.registry.v1 import namespaces_pb2
from services.chassis.tests.behaviour import hpack
from services.chassis.tests.behaviour.wire import CONTINUATION, END_HEADERS, HEADERS, Reply, Wire, message
from tests.drills.abuse.keyvalue import burst_of_increments, script_damage

GET = "/modelyard.registry.v1.ModelService/GetModel"
MODELS = "/v1/namespaces/default/models"
CLOSED_WITHIN = 20.0  # seconds
_REFUSED_STREAM = 7
_PART = 8 << 20

Attack = Callable[[int], Coroutine[Any, Any, None]]


async def rapid_reset(port: int) -> None:
    """
    Calls that are cancelled as soon as they are sent: the connection is closed.
    """
    async with Wire.open(port) as wire:
        for _ in range(100):
            for _ in range(100):
                wire.reset(wire.begin(GET))
            await asyncio.sleep(0.01)
            if wire.closed.is_set():
                return
        await asyncio.wait_for(wire.closed.wait(), CLOSED_WITHIN)


async def header_bombs(port: int) -> None:
    """
    Headers above the size limit: 431, or the stream or the connection is closed; no service is called.
    """
    bombs: list[dict[str, str | None]] = [
        {"x-bomb": "x" * 12_000, "x-bomb-two": "x" * 12_000, "x-bomb-three": "x" * 12_000},
        {f"x-{number}": "x" for number in range(500)},
    ]
    for bomb in bombs:
        async with Wire.open(port) as wire:
            reply = await _send_large_headers(wire, bomb)
            assert reply.http in ("431", "") or reply.status not in (None, 0), reply


async def _send_large_headers(wire: Wire, bomb: dict[str, str | None]) -> Reply:
    stream = wire.begin(GET, {"warm": "up"}, end=True)
    await wire.reply(stream)
    usual = [(":method", "POST"), (":scheme", "http"), (":path", GET), (":authority", "localhost"), ("te", "trailers")]
    block = hpack.encode([*usual, *((name, value or "") for name, value in bomb.items())])
    stream += 2
    first, rest = block[:16_000], block[16_000:]
    reply = wire.expect(stream)
    wire.frame(HEADERS, 0 if rest else END_HEADERS, stream, first)
    while rest:
        part, rest = rest[:16_000], rest[16_000:]
        wire.frame(CONTINUATION, 0 if rest else END_HEADERS, stream, part)
    async with asyncio.timeout(CLOSED_WITHIN):
        await reply.ended.wait()
    return reply


async def continuation_flood(port: int) -> None:
    """
    Endless headers: the connection is closed long before memory is exhausted.
    """
    async with Wire.open(port) as wire:
        wire.frame(HEADERS, 0, 1, hpack.encode([(":method", "POST"), (":scheme", "http"), (":path", GET)]))
        part = hpack.encode([("x-flood", "x" * 8_000)])
        for _ in range(2_000):
            wire.frame(CONTINUATION, 0, 1, part)
            if wire.closed.is_set():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("16 MB of headers were accepted")


async def ten_thousand_streams(port: int, count: int = 10_000) -> None:
    """
    Streams that are opened and left incomplete: those above the limit are refused or end the connection.
    """
    async with Wire.open(port) as wire:
        streams = []
        for number in range(count):
            streams.append(wire.begin(GET))
            if number % 500 == 0:
                await asyncio.sleep(0.01)
        await _processed(wire)
        refused = [stream for stream in streams if wire.expect(stream).reset == _REFUSED_STREAM]
        assert wire.closed.is_set() or len(refused) >= count - 512


async def _processed(wire: Wire) -> None:
    """
    Wait until everything that was sent has been processed, or the connection has been closed.
    """

    async def ping() -> None:
        with suppress(TimeoutError, OSError):
            await wire.ping()

    waiting = [asyncio.create_task(ping()), asyncio.create_task(_closed(wire))]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _closed(wire: Wire) -> None:
    await wire.closed.wait()


async def slowloris(port: int, count: int = 200) -> None:
    """
    Requests whose headers never end: their connections are closed, and other clients can connect meanwhile.
    """

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
            ends = asyncio.get_running_loop().time() + CLOSED_WITHIN
            while asyncio.get_running_loop().time() < ends:
                writer.write(b"x")
                with suppress(TimeoutError):
                    # The response is 408; then the connection is closed.
                    if not await asyncio.wait_for(reader.read(1000), 1):
                        return
            raise AssertionError("the connection was not closed")
        except ConnectionError:
            return
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(count)))


async def large_json(port: int) -> None:
    """
    100 MB of JSON, an unterminated value or name: 413 long before all of it has arrived.
    """
    for beginning in (b'{"description": "', b'{"description": "x", '):
        await asyncio.to_thread(_large_json, port, beginning)


def _large_json(port: int, beginning: bytes) -> None:
    part = b"y" * 1_000_000
    with socket.create_connection(("127.0.0.1", port), timeout=CLOSED_WITHIN) as raw:
        raw.sendall(f"POST {MODELS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode())
        raw.sendall(b"content-length: 100000030\r\n\r\n" + beginning)
        sent = 0
        with suppress(ConnectionError):
            for _ in range(100):
                raw.sendall(part)
                sent += 1
        assert sent < 100
        answer = b""
        with suppress(ConnectionError):
            answer = raw.recv(1000)
        # If the connection was reset while data was still being sent, the response may be lost.
        assert answer[9:12] in (b"413", b""), answer


async def endless_json(port: int) -> None:
    """
    Invalid JSON of the maximum size: 400, quickly.
    """
    for beginning in (b'{"description": "x", ', b'{"description": "', b"{ ", b"["):
        began = time.monotonic()
        status, _ = await asyncio.to_thread(_post, port, beginning + b"y" * 2_097_000)
        assert (status, time.monotonic() - began < CLOSED_WITHIN) == (400, True)


async def deep_json(port: int) -> None:
    """
    JSON that is nested 100,000 levels deep: 400.
    """
    for deep in (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 100_000, b'{"labels":{"a":' * 100):
        status, body = await asyncio.to_thread(_post, port, deep)
        assert (status, b'"code":3' in body) == (400, True), (status, body[:200])


def _post(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CLOSED_WITHIN)
    connection.request("POST", MODELS, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


TRICKS = {
    "//v1//namespaces//default//models": {200},  # slashes are merged
    "/v1/./namespaces/default/models": {200},
    "/v1/x/../namespaces/default/models": {200},
    "/v1/%2e%2e/%2e%2e/etc/passwd": {400, 404},
    "/v1/namespaces/%2e%2e/models": {400, 404},
    "/v1/namespaces/default%2fmodels": {400, 404},
    "/v1/namespaces/default%00/models": {400, 404},
    "/v1/namespaces/default/models/%00": {400, 404},
    "/v1/namespaces/default/models/a%5cb": {400, 404},
    "/assets/../static/x": {404},
    "/assets/%2e%2e/%2e%2e/secret": {400, 404},
    f"/assets/{'0' * 64}%00": {400, 404},
    "/static/..%2f..%2fsecret": {404},
    "/../../../../etc/passwd": {400, 404},
    "/modelyard.registry.v1.ModelService/../../admin": {404},
    "/stats/prometheus": {404},
    "/quitquitquit": {404},
    "\\..\\etc": {400, 404},
}


async def path_tricks(port: int) -> None:
    """
    Path traversal: the normalized path is served, or the request is rejected.
    """
    wrong = []
    for path, wanted in TRICKS.items():
        status = await asyncio.to_thread(_get, port, path)
        if status not in wanted:
            wrong.append((path, status))
    assert not wrong, wrong


def _get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CLOSED_WITHIN)
    connection.putrequest("GET", path)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


async def without_te(port: int) -> None:
    """
    A gRPC call without `te: trailers`, whose status a proxy may drop: INVALID_ARGUMENT.
    """
    async with Wire.open(port) as wire:
        reply = await wire.call(GET, message(b""), {"te": None})
        assert (reply.http, reply.status) == ("200", 3), reply


async def opened_uploads(port: int, most: int = 10_000) -> None:
    """
    Uploads of random digests that are opened and never sent: the client's own limit is reached long before the global
    one.
    """
    async with aio.connect(f"127.0.0.1:{port}") as yard:
        opened, refused = 0, ""
        for _ in range(most):
            request = uploads_pb2.StartUploadRequest(sha256=os.urandom(32).hex(), size_bytes=_PART)
            try:
                await yard.uploads.StartUpload(request, timeout=CLOSED_WITHIN)
            except grpc.RpcError as error:
                refused = explain(error).reason
                break
            opened += 1
        assert (opened < most, refused) == (True, "UPLOADS_OPEN")


async def dripping_uploads(port: int, streams: int = 33, seconds: float = 5) -> None:
    """
    Uploads that send a byte now and then, so that each occupies the memory of a part: they are ended or rejected, and
    small uploads succeed meanwhile.
    """
    async with aio.connect(f"127.0.0.1:{port}") as yard:
        ends = asyncio.get_running_loop().time() + seconds
        tasks = [asyncio.create_task(_drip(yard, ends)) for _ in range(streams)]
        try:
            while asyncio.get_running_loop().time() < ends:
                await asyncio.sleep(0.2)
                data = os.urandom(13)
                header = assets_pb2.UploadRequest.Header(sha256=hashlib.sha256(data).hexdigest(), size_bytes=13)
                chunk = assets_pb2.Chunk(offset=0, data=data)
                messages = [assets_pb2.UploadRequest(header=header), assets_pb2.UploadRequest(chunk=chunk)]
                await yard.assets.Upload(_stream(messages), timeout=CLOSED_WITHIN)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _drip(yard: aio.Client, ends: float) -> None:
    request = uploads_pb2.StartUploadRequest(sha256=os.urandom(32).hex(), size_bytes=2 * _PART)
    name = (await yard.uploads.StartUpload(request, timeout=CLOSED_WITHIN)).name

    async def slow_bytes() -> AsyncIterator[uploads_pb2.WriteUploadRequest]:
        offset = 0
        while asyncio.get_running_loop().time() < ends:
            chunk = assets_pb2.Chunk(offset=offset, data=b"x")
            yield uploads_pb2.WriteUploadRequest(name=name, chunk=chunk)
            offset += 1
            await asyncio.sleep(0.2)

    try:
        with suppress(grpc.RpcError):
            await yard.uploads.WriteUpload(slow_bytes())
    finally:
        await yard.uploads.AbortUpload(uploads_pb2.AbortUploadRequest(name=name), timeout=CLOSED_WITHIN)


async def _stream(messages: list[assets_pb2.UploadRequest]) -> AsyncIterator[assets_pb2.UploadRequest]:
    for each in messages:
        yield each


async def unreachable_revision(port: int, count: int = 200) -> None:
    """
    Reads that ask for a revision that does not exist: FAILED_PRECONDITION, and other clients are not affected.
    """
    async with aio.connect(f"127.0.0.1:{port}") as yard:
        for number in range(count):
            name = "namespaces/default" if number % 2 else f"namespaces/none-{number}"
            request = namespaces_pb2.GetNamespaceRequest(name=name)
            try:
                await yard.namespaces.GetNamespace(request, metadata=(("x-min-revision", "999999999999"),), timeout=10)
            except grpc.RpcError as error:
                assert explain(error).code is grpc.StatusCode.FAILED_PRECONDITION, error  # noqa: PT017 - expected
            else:
                raise AssertionError("the read succeeded")


#: Attacks on the asset service's memory and upload slots; they take long with the default limits.
UPLOAD_ATTACKS: dict[str, Attack] = {"dripping_uploads": dripping_uploads, "opened_uploads": opened_uploads}
ATTACKS: dict[str, Attack] = {
    each.__name__: each
    for each in (
        rapid_reset, header_bombs, continuation_flood, ten_thousand_streams, slowloris, large_json, endless_json,
        deep_json, path_tricks, without_te, unreachable_revision, script_damage, burst_of_increments,
    )
}  # fmt: skip
