"""
The probe: a service like any other (`python -m services.chassis.tests.probe`), whose handlers do what a test asks for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc

from services.chassis.errors import FieldViolation, InvalidArgument, NotFound, Unavailable
from services.chassis.serving.context import Context, Metadata
from services.chassis.serving.server import Server, main
from services.chassis.tests.proto import probe_pb2 as pb
from services.chassis.tests.proto import probe_pb2_grpc

_log = logging.getLogger(__name__)

SECRET = "password=hunter2"
_INITIAL = "x-initial-"
_TRAILING = "x-trailing-"


class Probe(probe_pb2_grpc.ProbeServiceServicer):
    """
    The servicer. What its handlers do is written in the contract.
    """

    def __init__(self) -> None:
        self._fates: defaultdict[str, pb.FateResponse] = defaultdict(pb.FateResponse)

    async def Unary(self, request: pb.Ask, context: Context) -> pb.Answer:
        with self._watched(context) as fate:
            fate.received += 1
            await _prepare(context, request)
            fate.sent += 1
            answer = _answer(request, context, fate)
            if request.keys:
                answer.keys.extend(key for key, _ in context.invocation_metadata() or ())
            return answer

    async def Down(  # type: ignore[override] # what is serialised, too
        self, request: pb.Ask, context: Context
    ) -> AsyncIterator[pb.Answer | bytes]:
        with self._watched(context) as fate:
            fate.received += 1
            await _greet(context, request)
            for index in range(request.answers):
                await asyncio.sleep(request.pause_ms / 1000)
                fate.sent += 1
                answer = _answer(request, context, fate, index)
                yield answer.SerializeToString() if request.serialized else answer
            _stumble(request)

    async def Up(self, request_iterator: AsyncIterator[pb.Ask], context: Context) -> pb.Answer:
        with self._watched(context) as fate:
            size, received = 0, 0
            request = pb.Ask()
            async for request in request_iterator:
                fate.received += 1
                received += 1
                size += len(request.payload)
                await _prepare(context, request)
                if received == request.enough:
                    break
            fate.sent += 1
            answer = _answer(request, context, fate)
            answer.received, answer.received_bytes = received, size
            return answer

    async def Both(self, request_iterator: AsyncIterator[pb.Ask], context: Context) -> AsyncIterator[pb.Answer]:
        with self._watched(context) as fate:
            index = 0
            async for request in request_iterator:
                fate.received += 1
                await _prepare(context, request, first=index == 0)
                fate.sent += 1
                yield _answer(request, context, fate, index)
                index += 1
                if index == request.enough:
                    break

    async def Fate(self, request: pb.FateRequest, context: Context) -> pb.FateResponse:
        return self._fates[request.call]

    def totals(self) -> dict[str, int]:
        """
        How many calls began and how many finished.
        """
        fates = self._fates.values()
        return {"started": sum(fate.started for fate in fates), "finished": sum(fate.finished for fate in fates)}

    @contextmanager
    def _watched(self, context: Context) -> Iterator[pb.FateResponse]:
        metadata = context.invocation_metadata() or ()
        fate = self._fates[next((str(value) for key, value in metadata if key == "x-call"), "")]
        fate.started += 1
        context.add_done_callback(lambda _: _count_done(fate))
        context.set_trailing_metadata(_under(_TRAILING, metadata))
        try:
            yield fate
        except (asyncio.CancelledError, GeneratorExit):
            fate.cancelled += 1
            raise
        except Exception:
            fate.failed += 1
            raise
        fate.finished += 1


def _count_done(fate: pb.FateResponse) -> None:
    fate.done += 1


def _under(prefix: str, metadata: Metadata) -> Metadata:
    return tuple((key, value) for key, value in metadata if key.startswith(prefix))


async def _greet(context: Context, request: pb.Ask) -> None:
    for key, value in context.invocation_metadata() or ():
        if key == "x-block-ms":
            time.sleep(int(value) / 1000)  # noqa: ASYNC251 - blocking is the point
    if request.gzip:
        context.set_compression(grpc.Compression.Gzip)
    if initial := _under(_INITIAL, context.invocation_metadata() or ()):
        await context.send_initial_metadata(initial)


async def _prepare(context: Context, request: pb.Ask, *, first: bool = True) -> None:
    if first:
        await _greet(context, request)
    if request.pause_ms:
        await asyncio.sleep(request.pause_ms / 1000)
    _stumble(request)


def _answer(request: pb.Ask, context: Context, fate: pb.FateResponse, index: int = 0) -> pb.Answer:
    left = context.time_remaining()
    return pb.Answer(
        payload=request.payload or bytes(request.answer_bytes),
        text=request.text,
        index=index,
        received=fate.received,
        # Without a deadline, grpcio says infinity and the Envoy host None: the contract of Context allows both.
        seconds_left=None if left is None or left == float("inf") else left,
    )


def _stumble(request: pb.Ask) -> None:
    match request.trouble:
        case pb.TROUBLE_NOT_FOUND:
            raise NotFound("PROBE_NOT_FOUND", request.text)
        case pb.TROUBLE_INVALID:
            raise InvalidArgument(
                [FieldViolation("payload", "must not be empty"), FieldViolation("text", "must be short")]
            )
        case pb.TROUBLE_UNAVAILABLE:
            raise Unavailable("PROBE_DOWN", "the probe is down", retry_after=1.5)
        case pb.TROUBLE_BUG:
            raise RuntimeError(f"cannot connect with {SECRET}")
        case _:
            return


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the probe for as long as the block lasts.
    """
    probe = Probe()  # type: ignore[abstract]  # the methods that it lacks answer UNIMPLEMENTED
    server.ask_for(
        {f"/modelyard.test.v1.ProbeService/{name}": "probe" for name in ("Unary", "Down", "Up", "Both", "Fate")}
    )
    server.add(probe_pb2_grpc.add_ProbeServiceServicer_to_server, probe)
    yield
    _log.info("the probe ends", extra=probe.totals())


if __name__ == "__main__":
    main("services.chassis.tests.probe", compose)
