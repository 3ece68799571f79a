"""
The messages of a request, read no faster than the handler takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from services.chassis.hosts.call import Call
from services.chassis.hosts.context import Event
from services.chassis.hosts.framing import StatusError, Unframer, whole

Deserializer = Callable[[bytes], Any]

# On both hosts. The second and the third are UNIMPLEMENTED: "Request cardinality violation" in
# https://github.com/grpc/grpc/blob/master/doc/statuscodes.md.
UNREADABLE = "the request does not parse"
NO_MESSAGE = "no message in a unary request"
SECOND_MESSAGE = "more than one message in a unary request"

# One more piece of the body is asked for while less than this lies here unread, so that a client that disconnects is
# noticed. A piece is at most what Envoy buffers of a stream.
_AHEAD = 65536


def deserialized(deserialize: Deserializer | None, message: bytes) -> Any:
    """
    *message* as the handler wants it.

    Raises:
        StatusError: it is not one of this method's.
    """
    if deserialize is None:
        return message
    try:
        return deserialize(message)
    except Exception as error:  # noqa: BLE001 - what a deserializer raises is its own affair
        raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, f"{UNREADABLE}: {error}") from None


async def read_one(call: Call, encoding: str, most: int) -> bytes | None:
    """
    The one message of a unary request; None if the client went away first.

    Raises:
        StatusError: it is too large, or not one message.
    """
    event = await call.receive()
    message = None
    # Nearly every request is one piece with one message in it.
    if event["type"] == "http.request" and not event["more_body"]:
        message = whole(event["body"], most)
    if message is None:
        message = await _assemble(call, event, Unframer(encoding, most))
    call.request_ended = True
    return message


async def _assemble(call: Call, event: Event, unframer: Unframer) -> bytes | None:
    """
    Read to the end of the request, even if its message is whole before: a response that comes before that makes Envoy
    reset the stream, and its codec takes trailers that arrive on a reset stream for an attack on the connection.
    """
    message: bytes | None = None
    while True:
        if event["type"] == "http.disconnect":
            call.lost()
            return None
        unframer.feed(event["body"])
        if message is None:
            message = unframer.pop()
        if message is not None and unframer.pending:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, SECOND_MESSAGE)
        if not event["more_body"]:
            break
        event = await call.receive()
    if message is None:
        raise _ended_early(unframer)
    return message


class Requests:
    """
    The messages of a streaming request, as the async iterator that the handler is given.

    Args:
        call: whose request it is.
        unframer: takes the body apart.
        deserialize: makes what the handler wants of each message.
    """

    __slots__ = ("_asked", "_call", "_deserialize", "_unframer", "_waiter")

    def __init__(self, call: Call, unframer: Unframer, deserialize: Deserializer | None) -> None:
        self._call = call
        self._unframer = unframer
        self._deserialize = deserialize
        self._asked = False
        self._waiter: asyncio.Future[None] | None = None
        self._ask()

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        try:
            message = await self._next()
            return deserialized(self._deserialize, message)
        except StatusError as error:
            raise self._call.refuse(error) from None

    async def _next(self) -> bytes:
        while (message := self._unframer.pop()) is None:
            if self._call.request_ended:
                if self._unframer.pending:
                    raise _ended_early(self._unframer)
                raise StopAsyncIteration
            self._ask()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._unframer.pending < _AHEAD:
            self._ask()
        return message

    def _ask(self) -> None:
        if self._asked or self._call.request_ended or self._call.closed:
            return
        self._asked = True
        # A callback, because a handler that is cancelled must not cancel pyvoy's future with it.
        self._call.receive().add_done_callback(self._take)

    def _take(self, answer: asyncio.Future[Event]) -> None:
        self._asked = False
        event = answer.result()
        if event["type"] == "http.disconnect":
            self._call.lost()
            return
        self._unframer.feed(event["body"])
        self._call.request_ended = not event["more_body"]
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        elif self._unframer.pending < _AHEAD:
            self._ask()


def _ended_early(unframer: Unframer) -> StatusError:
    if unframer.pending:
        return StatusError(grpc.StatusCode.INVALID_ARGUMENT, "bad gRPC frame: the request ends within a message")
    return StatusError(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
