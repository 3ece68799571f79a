"""
A file that is sent.
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

#: Tells a file that was written to, or another one in its place: bytes, nanoseconds. No inode: not every file system
#: gives the same one twice.
_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class UploadSource:
    """
    A file to upload.

    Args:
        path: where it is.
        sha256: its digest, 64 lower-case hexadecimal digits.
        size_bytes: how large it is.
        media_type: such as text/plain; empty when nobody knows.
        stamp: size and time of the file that was hashed.
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
            media_type: such as text/plain; empty means by the file's name.
            progress: called with the bytes hashed and the bytes in all.

        Raises:
            OSError: it cannot be read, or is none, such as a pipe.
            FileChangedError: it changed meanwhile.
        """
        path = Path(path)
        mode = path.stat().st_mode
        # A pipe would be waited for when it is opened. What a folder is not, `open` says better.
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
    The sha256 of what is left of *file*, in hexadecimal.
    """
    progress(0, os.fstat(file.fileno()).st_size)
    return hashlib.file_digest(_ReportingReader(file, progress), "sha256").hexdigest()


class _ReportingReader:
    # As much of a file as hashlib.file_digest asks for.
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
    The bytes of a file as streams of messages. A stream whose file fails just ends, since each kind of client makes
    something else of what a request iterator raises; `check` raises what it was.

    Args:
        file: what to send.
        progress: told after each chunk.
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
            offset: where to go on, in bytes.
        """
        for chunk in self._chunks(offset):
            yield uploads_pb2.WriteUploadRequest(name=name, chunk=chunk)
            name = ""

    def tell(self, done: int) -> None:
        """
        Say that *done* bytes are there.
        """
        self._progress(done, self.file.size_bytes)

    def check(self) -> None:
        """
        Raises:
            OSError: the file could not be read.
            FileChangedError: it changed.
            BaseException: what the progress raised.
        """
        if self._failure is not None:
            raise self._failure

    def check_digest(self) -> None:
        """
        Read the file once more: the service has found other bytes than were declared.

        Raises:
            OSError: the file cannot be read.
            FileChangedError: it has another digest now.
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
