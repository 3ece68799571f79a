"""
The source of an upload: a local file and its stream of chunks.
"""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modelyard.cdn.v1 import assets_pb2, uploads_pb2
from modelyard.transfer.errors import FileChangedError
from modelyard.transfer.progress import ProgressCallback, no_progress

_CHUNK_BYTES = 1024 * 1024

#: Detects that a file was modified or replaced: size in bytes and modification time in nanoseconds. Without the inode,
#: which is not stable on every file system.
_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class UploadSource:
    """
    A file to upload.

    Args:
        path: path of the file.
        sha256: its digest, 64 lower-case hexadecimal digits.
        size_bytes: its size.
        media_type: such as text/plain; empty if unknown.
        stamp: size and modification time of the file when it was hashed.
    """

    path: Path
    sha256: str
    size_bytes: int
    media_type: str
    stamp: _Stamp

    @classmethod
    def of(
        cls, path: str | os.PathLike[str], media_type: str = "", progress: ProgressCallback = no_progress
    ) -> UploadSource:
        """
        The file at *path*, read once for its digest.

        Args:
            media_type: such as text/plain; empty derives it from the file name.
            progress: called with the hashed and the total number of bytes.

        Raises:
            OSError: it cannot be read, or is not a regular file, such as a pipe.
            FileChangedError: it changed while it was hashed.
        """
        path = Path(path)
        mode = path.stat().st_mode
        # Opening a pipe would block. For a folder, `open` raises the better error.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "is not a file that can be read twice", str(path))
        with path.open("rb") as file:
            stamp = _stamp(file)
            sha256 = digest(file, progress)
            if _stamp(file) != stamp:
                raise FileChangedError(f"{path} changed while it was hashed: send it when nobody writes to it")
        return cls(path, sha256, stamp[0], media_type or mimetypes.guess_type(path.name)[0] or "", stamp)


def digest(file: BinaryIO, progress: ProgressCallback = no_progress) -> str:
    """
    The SHA-256 of *file* from its current position, in hexadecimal.
    """
    progress(0, os.fstat(file.fileno()).st_size)
    return hashlib.file_digest(_ReportingReader(file, progress), "sha256").hexdigest()


class _ReportingReader:
    # The part of a file's interface that hashlib.file_digest uses.
    def __init__(self, file: BinaryIO, progress: ProgressCallback) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._done = 0
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._done += count
        self._progress(self._done, self._size)
        return count


class UploadStream:
    """
    The bytes of a file as streams of messages. When reading fails the stream just ends, since the two clients handle
    exceptions of a request iterator differently; `check` raises the error.

    Args:
        file: the file to send.
        progress: called after each chunk.
    """

    def __init__(self, file: UploadSource, progress: ProgressCallback) -> None:
        self.file = file
        self._progress = progress
        self._failure: BaseException | None = None

    def whole(self, header: assets_pb2.UploadRequest.Header) -> Iterator[assets_pb2.UploadRequest]:
        """
        The stream of AssetService.Upload.
        """
        yield assets_pb2.UploadRequest(header=header)
        for chunk in self._chunks(0):
            yield assets_pb2.UploadRequest(chunk=chunk)

    def rest(self, name: str, offset: int) -> Iterator[uploads_pb2.WriteUploadRequest]:
        """
        The stream of UploadService.WriteUpload.

        Args:
            name: of the upload.
            offset: first byte to send.
        """
        for chunk in self._chunks(offset):
            yield uploads_pb2.WriteUploadRequest(name=name, chunk=chunk)
            name = ""

    def tell(self, done: int) -> None:
        """
        Report progress: *done* bytes are committed or sent.
        """
        self._progress(done, self.file.size_bytes)

    def check(self) -> None:
        """
        Raises:
            OSError: the file could not be read.
            FileChangedError: it changed.
            BaseException: raised by the progress callback.
        """
        if self._failure is not None:
            raise self._failure

    def check_digest(self) -> None:
        """
        Hash the file again, after the service found other bytes than were declared.

        Raises:
            OSError: the file cannot be read.
            FileChangedError: its digest has changed.
        """
        self.check()
        with self.file.path.open("rb") as opened:
            if digest(opened) != self.file.sha256:
                raise self._changed()

    def _chunks(self, offset: int) -> Iterator[assets_pb2.Chunk]:
        try:
            file = self.file.path.open("rb")
            file.seek(offset)
        except OSError as error:
            self._failure = error
            return
        with file:
            while data := self._read(file):
                yield assets_pb2.Chunk(offset=offset, data=data, crc32=zlib.crc32(data))
                offset += len(data)
                try:
                    self.tell(offset)
                except BaseException as error:  # noqa: BLE001 - raised by `check`, in the caller's thread
                    self._failure = error
                    return

    def _read(self, file: BinaryIO) -> bytes:
        try:
            data = file.read(_CHUNK_BYTES)
            if _stamp(file) == self.file.stamp:
                return data
            self._failure = self._changed()
        except OSError as error:
            self._failure = error
        return b""

    def _changed(self) -> FileChangedError:
        return FileChangedError(f"{self.file.path} changed while it was sent: send it again when nobody writes to it")


def _stamp(file: BinaryIO) -> _Stamp:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
