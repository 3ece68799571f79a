"""
Uploads: small files in one call, large ones as a resumable upload.
"""

from __future__ import annotations

from functools import partial

import grpc

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from modelyard.error_details import explain
from modelyard.transfer.errors import IntegrityError
from modelyard.transfer.progress import ProgressCallback
from modelyard.transfer.retries import Attempts
from modelyard.transfer.steps import Call, Pause, Plan
from modelyard.transfer.upload_source import UploadSource, UploadStream

#: Larger files are sent as a resumable upload, whose committed parts survive a broken connection.
RESUMABLE_BYTES = 8 * 1024 * 1024

# Retried: a damaged chunk; an idle stream, such as that of a suspended computer; a stream that is too slow; too many
# uploads of one client at a time.
_AGAIN = ("CHUNK_DAMAGED", "UPLOAD_IDLE", "UPLOAD_TOO_SLOW", "UPLOADS_BUSY")
# After these, the upload resumes at its committed offset. PARTS_REPLACED happens when the service still reads a stream
# that broke for the client: it replaced parts of the stream after it.
_GOES_ON = (*_AGAIN, "OFFSET_GAP", "UPLOAD_INCOMPLETE", "UPLOAD_NOT_FOUND", "PARTS_REPLACED")
# Another client sends the same file, or took over while this one stalled: wait for it.
_WAITS = ("UPLOAD_FINISHING", "UPLOAD_IN_USE", "UPLOAD_TAKEN_OVER")
# Finishing may read many gigabytes back, and another client may be slow: the number of polls without progress, and the
# seconds between them.
_WAIT_ASKED, _WAIT_PAUSE = 120, 5.0


def upload(file: UploadSource, *, owner: str, private: bool, progress: ProgressCallback) -> Plan[assets_pb2.Asset]:
    """
    The steps that store a file.

    Args:
        file: the file, already hashed.
        owner: owner whose quota is charged; empty charges none.
        private: whether HTTP serves it with presigned URLs only.
        progress: called with the committed and the total number of bytes.

    Raises:
        OSError: the file cannot be read.
        FileChangedError: it changed since it was hashed.
        IntegrityError: the service accepts no more bytes, without an error.
        grpc.RpcError: the error is not retryable, or the attempts are exhausted.
    """
    sending = UploadStream(file, progress)
    if file.size_bytes > RESUMABLE_BYTES:
        asset = yield from _Resumable(sending, owner, private).steps()
    else:
        asset = yield from _at_once(sending, owner, private)
    if asset.sha256 != file.sha256:
        raise IntegrityError(f"{file.path} was stored under another digest than its own: {asset.name}")
    progress(file.size_bytes, file.size_bytes)
    return asset


def _at_once(sending: UploadStream, owner: str, private: bool) -> Plan[assets_pb2.Asset]:
    file, attempts = sending.file, Attempts(_AGAIN)
    header = assets_pb2.UploadRequest.Header(
        sha256=file.sha256, size_bytes=file.size_bytes, media_type=file.media_type, owner=owner, private=private
    )
    while True:
        sending.tell(0)
        try:
            asset: assets_pb2.Asset = yield Call("assets", "Upload", partial(sending.whole, header))
        except grpc.RpcError as error:
            _blame(error, sending)
            yield Pause(attempts.delay(error))
        else:
            return asset


class _Resumable:
    # The client keeps no state between attempts or on disk: StartUpload finds the open upload of the same digest and
    # owner, whichever client started it, and returns its committed offset.
    def __init__(self, sending: UploadStream, owner: str, private: bool) -> None:
        file = sending.file
        self._sending = sending
        self._size = file.size_bytes
        self._start = uploads_pb2.StartUploadRequest(
            sha256=file.sha256, size_bytes=file.size_bytes, media_type=file.media_type, owner=owner, private=private
        )
        self._attempts = Attempts(_GOES_ON, [grpc.StatusCode.DEADLINE_EXCEEDED])
        self._committed = 0
        self._asked = self._asked_at = 0

    def steps(self) -> Plan[assets_pb2.Asset]:
        while True:
            try:
                asset = yield from self._attempt()
            except grpc.RpcError as error:
                yield Pause(self._pause(error))
            else:
                if not isinstance(asset, float):
                    return asset
                yield Pause(asset)

    def _attempt(self) -> Plan[assets_pb2.Asset | float]:
        """
        Resume the upload at its committed offset; returns the asset, or the seconds to wait if it is incomplete.
        """
        found: uploads_pb2.Upload = yield Call("uploads", "StartUpload", self._start)
        self._committed = self._size if found.complete else found.committed_bytes
        self._sending.tell(self._committed)
        if found.in_use and not found.complete:
            # Another client sends the same file: its parts count for both.
            seconds = self._wait()
            if seconds is None:
                raise IntegrityError(
                    f"another client uploads {self._sending.file.path} without progress: try again later"
                )
            return seconds
        if self._committed < self._size:
            messages = partial(self._sending.rest, found.name, self._committed)
            found = yield Call("uploads", "WriteUpload", messages)
            self._sending.check()
            self._committed = found.committed_bytes
            if self._committed < self._size:
                return self._unfinished()
        # Returns the asset of a complete upload as well, past caches that have not been invalidated yet.
        asset: assets_pb2.Asset = yield Call(
            "uploads", "FinishUpload", uploads_pb2.FinishUploadRequest(name=found.name)
        )
        return asset

    def _pause(self, error: grpc.RpcError) -> float:
        _blame(error, self._sending)
        problem = explain(error)
        waits = problem.reason in _WAITS or (
            problem.code is grpc.StatusCode.DEADLINE_EXCEEDED and self._committed == self._size
        )
        if not waits:
            return self._attempts.delay(error, self._committed)
        seconds = self._wait()
        if seconds is None:
            raise error
        return seconds

    def _wait(self) -> float | None:
        if self._committed > self._asked_at:
            self._asked, self._asked_at = 0, self._committed
        self._asked += 1
        return min(_WAIT_PAUSE, 0.2 * 2.0**self._asked) if self._asked < _WAIT_ASKED else None

    def _unfinished(self) -> float:
        if not self._attempts.another(self._committed):
            raise IntegrityError(
                f"the upload of {self._sending.file.path} stopped at byte {self._committed:,} of {self._size:,} "
                "without an error: try again later"
            )
        return self._attempts.pause()


def _blame(error: grpc.RpcError, sending: UploadStream) -> None:
    # A read error ends the stream early, and the service reports missing bytes: raise the read error instead.
    sending.check()
    if explain(error).reason in {"DIGEST_MISMATCH", "SIZE_MISMATCH"}:
        sending.check_digest()
