"""
A client that can misbehave: HTTP/2 frames by hand over a socket, and gRPC messages by hand in them.

Source: RFC 9113 and https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from services.chassis.tests.behaviour import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
#: Bytes that may be on their way on a connection at its beginning (RFC 9113, 6.9.2).
WINDOW = 65_535

# No table of headers to be kept (0x1); windows of 1 MiB (0x4).
_OUR_SETTINGS = b"\x00\x01\x00\x00\x00\x00" + b"\x00\x04\x00\x10\x00\x00"


def message(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """
    A length-prefixed message, or one that lies about its *length* or has an unheard-of *flag*.
    """
    return bytes([flag]) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


@dataclass(slots=True)
class Reply:
    """
    What came back on one stream.
    """

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def http(self) -> str:
        """
        The HTTP status; "" if none came.
        """
        return self.headers.get(":status", "")

    @property
    def status(self) -> int | None:
        """
        The gRPC status; None if none came.
        """
        found = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if found is None else int(found)


class Wire:
    """
    One connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next = 1
        self._replies: dict[int, Reply] = {}
        self._pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self._goaways: asyncio.Queue[int] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, window: int = 1 << 30) -> AsyncIterator[Wire]:
        """
        Connect and say hello.

        Args:
            window: bytes that the server may send on the whole connection, beyond `WINDOW`.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        wire = cls(reader, writer)
        wire.write(PREFACE)
        wire.frame(SETTINGS, 0, 0, _OUR_SETTINGS)
        if window:
            wire.frame(WINDOW_UPDATE, 0, 0, window.to_bytes(4, "big"))
        try:
            yield wire
        finally:
            wire._reading.cancel()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def write(self, raw: bytes) -> None:
        """
        Send *raw* as it is.
        """
        self._writer.write(raw)

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """
        Send one frame.
        """
        self.write(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)

    def begin(self, path: str, headers: Mapping[str, str | None] | None = None, *, end: bool = False) -> int:
        """
        Start a request and return the number of its stream.

        Args:
            path: "/package.Service/Method".
            headers: beside the usual ones, or in their place; None takes one away.
            end: the request has no body.
        """
        usual: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        sent = [(name, value) for name, value in {**usual, **(headers or {})}.items() if value is not None]
        stream, self._next = self._next, self._next + 2
        self._replies[stream] = Reply()
        self.frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, hpack.encode(sent))
        return stream

    def expect(self, stream: int) -> Reply:
        """
        What has come back on *stream* so far, and will.
        """
        return self._replies.setdefault(stream, Reply())

    def data(self, stream: int, body: bytes, *, end: bool = False) -> None:
        """
        Send a part of a request's body (no more than fits into one frame, 16 KiB), or the rest of it.
        """
        self.frame(DATA, END_STREAM if end else 0, stream, body)

    def reset(self, stream: int, code: int = 8) -> None:
        """
        Cancel a stream.
        """
        self.frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))

    async def reply(self, stream: int) -> Reply:
        """
        Wait until *stream* has ended, by a status, a reset or the end of the connection.
        """
        reply = self._replies[stream]
        async with asyncio.timeout(10):
            await reply.ended.wait()
        return reply

    async def began(self, stream: int) -> Reply:
        """
        Wait until the headers of the response to *stream* are here.
        """
        reply = self._replies[stream]
        async with asyncio.timeout(10):
            await reply.began.wait()
        return reply

    async def call(self, path: str, body: bytes, headers: Mapping[str, str | None] | None = None) -> Reply:
        """
        A whole request with *body* as it is, and its reply.
        """
        stream = self.begin(path, headers)
        self.data(stream, body, end=True)
        return await self.reply(stream)

    async def ping(self) -> None:
        """
        Ask whether the connection lives: everything sent before has been looked at when the answer is here.
        """
        self.frame(PING, 0, 0, b"whenever")
        async with asyncio.timeout(10):
            await self._pongs.get()

    async def goaway(self) -> int:
        """
        Wait for the next GOAWAY: the last stream that the server will serve.
        """
        async with asyncio.timeout(10):
            return await self._goaways.get()

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                self._take(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.closed.set()
            for reply in self._replies.values():
                reply.ended.set()
                reply.began.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.frame(SETTINGS, ACK, 0)
        elif kind == PING:
            self._pongs.put_nowait(payload) if flags & ACK else self.frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self._goaways.put_nowait(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF)
        elif stream in self._replies:
            self._take_reply(self._replies[stream], kind, flags, stream, payload)

    def _take_reply(self, reply: Reply, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            assert flags & END_HEADERS, "the tests expect short headers"
            into = reply.trailers if reply.headers else reply.headers
            into.update(hpack.decode(payload))
            reply.began.set()
        elif kind == DATA:
            reply.body += payload
            if payload:
                self.frame(WINDOW_UPDATE, 0, stream, len(payload).to_bytes(4, "big"))
        elif kind == RST_STREAM:
            reply.reset = int.from_bytes(payload, "big")
        if kind == RST_STREAM or (kind in {HEADERS, DATA} and flags & END_STREAM):
            reply.ended.set()
