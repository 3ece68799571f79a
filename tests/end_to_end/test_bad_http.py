"""
Clients that break HTTP/1.1, or its manners, at the routes of the doors: the right answer, and others are served.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Final

import pytest

from embedded.stack import Stack
from services.doors.tests.http_client import ask

_POST: Final = "POST /api/models/none/none/paths-info/main HTTP/1.1"
_GET: Final = "GET /api/models/none/none HTTP/1.1"
_MIB: Final = 1 << 20


def request(stack: Stack, line: str, headers: str = "", body: bytes = b"") -> bytes:
    """
    A request with these headers, each of which ends in \\r\\n.
    """
    return f"{line}\r\nhost: {stack.gateway}\r\n{headers}\r\n".encode() + body


def connected(stack: Stack) -> socket.socket:
    """
    A connection to the gateway.
    """
    host, _, port = stack.gateway.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def statuses(stack: Stack, data: bytes) -> list[int]:
    """
    The statuses of everything that comes back, until the gateway closes the connection.
    """
    with closing(connected(stack)) as connection:
        # It may answer before it was told everything.
        with suppress(OSError):
            connection.sendall(data)
        return list(_statuses(connection))


def _statuses(connection: socket.socket) -> Iterator[int]:
    received = b""
    while True:
        try:
            part = connection.recv(_MIB)
        except ConnectionResetError:
            part = b""
        if not part:
            break
        received += part
    for piece in received.split(b"HTTP/1.1 ")[1:]:
        yield int(piece[:3])


@pytest.mark.parametrize(
    ("headers", "body", "wanted"),
    [
        (f"x-bomb: {'a' * 70_000}\r\n", b"", 431),
        ("".join(f"x-{number}: a\r\n" for number in range(300)), b"", 431),
        ("x_under: a\r\n", b"", 400),
        ("transfer-encoding: chunked\r\n", b"zz\r\n", 400),
        ("transfer-encoding: chunked\r\n", b"FFFFFFFFFFFFFFFFF\r\nabc", 400),
        ("transfer-encoding: chunked\r\n", b"7FFFFFFF\r\n" + b"a" * (9 * _MIB), 413),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", b"0\r\n\r\n", 400),
        ("content-length: -5\r\n", b"", 400),
        ("content-length: 5\r\ncontent-length: 6\r\n", b"abcdef", 400),
    ],
    ids=[
        "a long header", "many headers", "an underscore", "no chunk", "an endless chunk", "a huge chunk",
        "chunks with a length", "a negative length", "two lengths",
    ],
)  # fmt: skip
def test_broken_requests_are_client_errors(stack: Stack, headers: str, body: bytes, wanted: int) -> None:
    """
    Headers and bodies that are too large or against RFC 9112 are told so, and the connection is closed.
    """
    assert statuses(stack, request(stack, _POST, headers, body)) == [wanted]


def test_http_1_0_is_told_to_upgrade(stack: Stack) -> None:
    """
    HTTP/1.0 is answered with 426.
    """
    assert statuses(stack, request(stack, _GET.replace("1.1", "1.0"))) == [426]


def test_pipelined_requests_are_answered_in_order(stack: Stack) -> None:
    """
    Requests that are sent without waiting for answers get theirs, in order.
    """
    data = request(stack, "GET /v2/ HTTP/1.1") + request(stack, _GET)
    data += request(stack, "POST /api/repos/create HTTP/1.1", "content-length: 2\r\nconnection: close\r\n", b"{}")
    assert statuses(stack, data) == [200, 404, 501]


def test_slow_and_idle_clients_are_in_nobodys_way(stack: Stack) -> None:
    """
    While 200 clients have begun a body and do not go on, and 200 say nothing at all, others are served; and the doors
    are served as before once they are gone.
    """
    begun = request(stack, _POST, "content-type: application/json\r\ncontent-length: 1000\r\n", b"{")
    with ExitStack() as resources:
        for number in range(400):
            connection = resources.enter_context(closing(connected(stack)))
            if number % 2:
                connection.sendall(begun)
        for path in ("/api/models/none/none", "/none/none/resolve/main/a", "/api/models?author=none"):
            assert ask(stack.gateway, path).status in {200, 404}
    assert ask(stack.gateway, "/api/models/none/none").status == 404
