"""
An asset service that stores everything in memory, on a real gRPC server, with faults that no real service shows.
"""

from __future__ import annotations

import hashlib
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from modelyard.cdn.v1.assets_pb2_grpc import AssetServiceServicer, add_AssetServiceServicer_to_server
from modelyard.cdn.v1.uploads_pb2_grpc import UploadServiceServicer, add_UploadServiceServicer_to_server

MIB = 1024 * 1024
#: What a MiB is for a client whose limits are scaled down (`tests.client.limits`).
PART = 64 * 1024


@dataclass
class Open:
    """
    An upload in progress: its declaration and the committed bytes.
    """

    message: uploads_pb2.Upload
    data: bytearray = field(default_factory=bytearray)
    writers: int = 0


@dataclass
class Memory:
    """
    The stored assets, the recorded calls, and the faults to inject.

    Args:
        part_bytes: part size; whole parts are committed.
        chunk_bytes: size of the chunks that Download sends.
        stored: bytes by digest.
        in_use: number of StartUpload calls that report another client's upload.
        headers: media type, owner and privacy by digest.
        opened: uploads by name.
        received: bytes received in uploads, including those that were sent again.
        sent: bytes sent in downloads.
        calls: names of the called methods.
        writes: start offset of each WriteUpload.
        downloads: offset and limit of each download.
        break_writes: number of bytes after which each of the next WriteUpload streams breaks.
        break_downloads: the same for downloads.
        answers: errors of the next calls, by method.
        garble: bytes that Download sends instead.
        warnings: warnings of the service by digest.
        pause: while it is clear, uploads and downloads wait.
        pause_at: number of transferred bytes at which it is cleared; 0 for never.
    """

    part_bytes: int = PART
    chunk_bytes: int = PART // 8
    stored: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    opened: dict[str, Open] = field(default_factory=dict)
    received: int = 0
    sent: int = 0
    calls: list[str] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    downloads: list[tuple[int, int]] = field(default_factory=list)
    break_writes: deque[int] = field(default_factory=deque)
    break_downloads: deque[int] = field(default_factory=deque)
    answers: dict[str, deque[tuple[grpc.StatusCode, str]]] = field(default_factory=dict)
    garble: bytes = b""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    pause: threading.Event = field(default_factory=threading.Event)
    in_use: int = 0
    pause_at: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.pause.set()

    def wait(self) -> None:
        """
        Wait while there is a pause.
        """
        if 0 < self.pause_at <= self.received + self.sent:
            self.pause.clear()
        self.pause.wait()

    def until_paused(self) -> None:
        """
        Wait until there is a pause.
        """
        while self.pause.is_set():
            time.sleep(0.001)

    def go_on(self) -> None:
        """
        End the pause, for good.
        """
        self.pause_at = 0
        self.pause.set()

    def put(self, data: bytes) -> assets_pb2.Asset:
        """
        Store an asset.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        self.stored[sha256] = data
        return self.asset(sha256)

    def asset(self, sha256: str) -> assets_pb2.Asset:
        """
        The message of an asset.
        """
        media_type, _, private = self.headers.get(sha256, ("", "", False))
        size = len(self.stored[sha256])
        return assets_pb2.Asset(
            name=f"assets/{sha256}",
            sha256=sha256,
            size_bytes=size,
            media_type=media_type,
            private=private,
            warnings=self.warnings.get(sha256, []),
        )

    def called(self, method: str, context: Any) -> None:
        """
        Record a call, and fail if an error is configured.
        """
        with self.lock:
            self.calls.append(method)
            told = self.answers.get(method)
            if told:
                fail(context, *told.popleft())


def fail(context: Any, code: grpc.StatusCode, reason: str, message: str = "as told") -> NoReturn:
    """
    End a call as the services do, with a reason.
    """
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="modelyard"))
    status = status_pb2.Status(code=getattr(code_pb2, code.name), message=message, details=[detail] if reason else [])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort raises")


def _check(chunk: assets_pb2.Chunk, context: Any) -> None:
    if not chunk.HasField("crc32") or chunk.crc32 != zlib.crc32(chunk.data):
        fail(context, grpc.StatusCode.INVALID_ARGUMENT, "NO_CHECKSUM")


class Assets(AssetServiceServicer):
    """
    The transfers of AssetService.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def GetAsset(self, request: assets_pb2.GetAssetRequest, context: Any) -> assets_pb2.Asset:  # noqa: N802
        self._memory.called("GetAsset", context)
        sha256 = request.name.removeprefix("assets/")
        if sha256 not in self._memory.stored:
            fail(context, grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")
        return self._memory.asset(sha256)

    def ListAssets(  # noqa: N802
        self, request: assets_pb2.ListAssetsRequest, context: Any
    ) -> assets_pb2.ListAssetsResponse:
        self._memory.called("ListAssets", context)
        assets = [self._memory.asset(sha256) for sha256 in sorted(self._memory.stored)]
        return assets_pb2.ListAssetsResponse(assets=assets)

    def FindMissing(  # noqa: N802
        self, request: assets_pb2.FindMissingRequest, context: Any
    ) -> assets_pb2.FindMissingResponse:
        self._memory.called("FindMissing", context)
        missing = dict.fromkeys(each for each in request.sha256 if each not in self._memory.stored)
        public = [each for each in request.sha256 if request.private and self._is_public(each)]
        return assets_pb2.FindMissingResponse(sha256=list(missing), public=public)

    def _is_public(self, sha256: str) -> bool:
        return sha256 in self._memory.stored and not self._memory.headers.get(sha256, ("", "", False))[2]

    def Upload(self, request_iterator: Iterator[assets_pb2.UploadRequest], context: Any) -> assets_pb2.Asset:  # noqa: N802
        self._memory.called("Upload", context)
        header, data = next(request_iterator).header, bytearray()
        for request in request_iterator:
            self._memory.wait()
            _check(request.chunk, context)
            data += request.chunk.data
            self._memory.received += len(request.chunk.data)
        if len(data) != header.size_bytes:
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "SIZE_MISMATCH")
        if hashlib.sha256(data).hexdigest() != header.sha256:
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        private = header.private and not self._is_public(header.sha256)
        self._memory.headers[header.sha256] = (header.media_type, header.owner, private)
        return self._memory.put(bytes(data))

    def Download(  # noqa: N802
        self, request: assets_pb2.DownloadRequest, context: Any
    ) -> Iterator[assets_pb2.DownloadResponse]:
        memory = self._memory
        memory.called("Download", context)
        data = memory.stored[request.name.removeprefix("assets/")]
        with memory.lock:
            memory.downloads.append((request.offset, request.limit))
            left = memory.break_downloads.popleft() if memory.break_downloads else -1
        offset, end = request.offset, request.offset + request.limit if request.limit else len(data)
        while offset < end and context.is_active():
            memory.wait()
            chunk = data[offset : min(offset + memory.chunk_bytes, end)]
            if 0 <= left < len(chunk):
                with memory.lock:
                    memory.sent += left
                yield assets_pb2.DownloadResponse(chunk=assets_pb2.Chunk(offset=offset, data=chunk[:left]))
                fail(context, grpc.StatusCode.UNAVAILABLE, "")
            left -= len(chunk) if left >= 0 else 0
            with memory.lock:
                memory.sent += len(chunk)
            chunk = memory.garble[: len(chunk)].ljust(len(chunk), b"?") if memory.garble else chunk
            yield assets_pb2.DownloadResponse(chunk=assets_pb2.Chunk(offset=offset, data=chunk))
            offset += len(chunk)


class Uploads(UploadServiceServicer):
    """
    UploadService.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def StartUpload(self, request: uploads_pb2.StartUploadRequest, context: Any) -> uploads_pb2.Upload:  # noqa: N802
        self._memory.called("StartUpload", context)
        name = f"uploads/{request.sha256[:12]}-{hashlib.sha256(request.owner.encode()).hexdigest()[:8]}"
        with self._memory.lock:
            found = self._memory.opened.setdefault(name, Open(uploads_pb2.Upload(name=name)))
            for each in ("sha256", "size_bytes", "media_type", "owner"):
                setattr(found.message, each, getattr(request, each))
            found.message.part_size_bytes = self._memory.part_bytes
            self._memory.headers[request.sha256] = (request.media_type, request.owner, request.private)
            found.message.complete = request.sha256 in self._memory.stored
            found.message.in_use = self._memory.in_use > 0
            self._memory.in_use -= 1
            return found.message

    def WriteUpload(  # noqa: N802
        self, request_iterator: Iterator[uploads_pb2.WriteUploadRequest], context: Any
    ) -> uploads_pb2.Upload:
        memory, found, mine, buffer = self._memory, None, 0, b""
        memory.called("WriteUpload", context)
        left = memory.break_writes.popleft() if memory.break_writes else -1
        for request in request_iterator:
            if found is None:
                found = self._find(request.name, context)
                found.writers = mine = found.writers + 1
                memory.writes.append(request.chunk.offset)
            memory.wait()
            _check(request.chunk, context)
            if found.writers != mine:
                fail(context, grpc.StatusCode.ABORTED, "UPLOAD_TAKEN_OVER")
            if request.chunk.offset != len(found.data) + len(buffer):
                fail(context, grpc.StatusCode.OUT_OF_RANGE, "OFFSET_GAP")
            data = request.chunk.data if left < 0 else request.chunk.data[:left]
            buffer += data
            memory.received += len(data)
            whole = len(buffer) // memory.part_bytes * memory.part_bytes
            if len(found.data) + len(buffer) == found.message.size_bytes:
                whole = len(buffer)
            self._commit(found, buffer[:whole])
            buffer = buffer[whole:]
            if 0 <= left <= len(request.chunk.data):
                fail(context, grpc.StatusCode.UNAVAILABLE, "")
            left -= len(data) if left >= 0 else 0
        if found is None:
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        return found.message

    def FinishUpload(self, request: uploads_pb2.FinishUploadRequest, context: Any) -> assets_pb2.Asset:  # noqa: N802
        self._memory.called("FinishUpload", context)
        found = self._find(request.name, context)
        if found.message.sha256 in self._memory.stored:
            return self._memory.asset(found.message.sha256)
        if len(found.data) != found.message.size_bytes:
            fail(context, grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
        if hashlib.sha256(found.data).hexdigest() != found.message.sha256:
            del self._memory.opened[request.name]
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
        return self._memory.put(bytes(found.data))

    def _find(self, name: str, context: Any) -> Open:
        if name not in self._memory.opened:
            fail(context, grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")
        return self._memory.opened[name]

    def _commit(self, found: Open, data: bytes) -> None:
        found.data += data
        found.message.committed_bytes = len(found.data)


class Server:
    """
    A server of the memory that can stop and restart on the same port.

    Args:
        memory: its state, which survives a restart.
        more: functions that add further servicers to a server.
    """

    def __init__(self, memory: Memory, *more: Any) -> None:
        self._memory = memory
        self._more = more
        self._server: Any = None
        self.port = 0
        self.start()

    @property
    def target(self) -> str:
        """
        host:port.
        """
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """
        Listen on the same port as before.
        """
        self._server = grpc.server(ThreadPoolExecutor(24))
        add_AssetServiceServicer_to_server(Assets(self._memory), self._server)  # type: ignore[abstract]
        add_UploadServiceServicer_to_server(Uploads(self._memory), self._server)  # type: ignore[abstract]
        for add in self._more:
            add(self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """
        Stop at once and cancel the calls in progress.
        """
        self._server.stop(None).wait()


@contextmanager
def serving(memory: Memory, *more: Any) -> Iterator[Server]:
    """
    A server of *memory*.
    """
    server = Server(memory, *more)
    try:
        yield server
    finally:
        memory.go_on()
        server.stop()
