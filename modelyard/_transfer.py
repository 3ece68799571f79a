"""
File transfers of the threaded client.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer import STREAMS, Attempts, Download, Pause, Plan, PollDelays, RangeDownload, StreamDownload

T = TypeVar("T")


class Transfer:
    """
    Executes transfer plans with the stubs of a client.

    Args:
        yard: the client.
    """

    def __init__(self, yard: Any) -> None:
        self._yard = yard
        self._closed = threading.Event()

    def close(self) -> None:
        """
        End all waits: the client is closed.
        """
        self._closed.set()

    def carry_out(self, plan: Plan[T]) -> T:
        """
        Execute *plan*, and return its result.
        """
        step = plan.send
        given: Any = None
        while True:
            try:
                wanted = step(given)
            except StopIteration as done:
                result: T = done.value
                return result
            step, given = plan.send, None
            if isinstance(wanted, Pause):
                self._closed.wait(wanted.seconds)
                continue
            request = wanted.request() if callable(wanted.request) else wanted.request
            try:
                given = getattr(getattr(self._yard, wanted.stub), wanted.method)(request)
            except grpc.RpcError as error:
                step, given = plan.throw, error

    def _begin(self, incoming: Download) -> None:
        pauses = PollDelays()
        while not incoming.begin():
            if self._closed.wait(pauses.next()):
                raise ValueError("the client was closed while it waited for another download of the same file")

    def receive(self, incoming: StreamDownload) -> None:
        """
        Download the missing bytes of a small file.
        """
        self._begin(incoming)
        attempts = Attempts()
        while incoming.missing:
            try:
                for message in self._yard.assets.Download(incoming.request()):
                    incoming.take(message.chunk)
                incoming.ended()
            except grpc.RpcError as error:
                self._closed.wait(attempts.delay(error, incoming.received))

    def receive_ranges(self, incoming: RangeDownload) -> None:
        """
        Download the missing bytes of a large file in several streams; the first failure ends all.
        """
        self._begin(incoming)
        streams = _Streams()
        with ThreadPoolExecutor(STREAMS, "modelyard-download") as pool:
            futures = [pool.submit(self._receive_pieces, incoming, streams) for _ in range(STREAMS)]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                streams.stop()

    def _receive_pieces(self, incoming: RangeDownload, streams: _Streams) -> None:
        while (piece := incoming.next()) is not None:
            attempts = Attempts()
            while piece.missing:
                try:
                    with streams.of(self._yard.assets.Download(incoming.request(piece))) as stream:
                        for message in stream:
                            incoming.take(piece, message.chunk)
                    incoming.ended(piece)
                except grpc.RpcError as error:
                    if streams.stopped.wait(attempts.delay(error, piece.done)):
                        return


class _Streams:
    # The calls in progress: only cancelling a call reaches a thread that waits for its next message.
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Any] = set()
        self.stopped = threading.Event()

    @contextmanager
    def of(self, call: Any) -> Iterator[Iterator[assets_pb2.DownloadResponse]]:
        with self._lock:
            self._calls.add(call)
        if self.stopped.is_set():
            call.cancel()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)
            # Without this, the rest of an abandoned stream is buffered.
            call.cancel()

    def stop(self) -> None:
        self.stopped.set()
        with self._lock:
            for call in self._calls:
                call.cancel()
