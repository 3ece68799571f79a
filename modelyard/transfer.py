"""
Files on their way to and from a Modelyard: hashed, resumed, verified. No network here: both clients use it.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import grpc

from modelyard.cdn.v1 import assets_pb2
from modelyard.problems import explain

#: Called with the bytes done and the bytes in all.
Progress = Callable[[int, int], None]

_CHUNK_BYTES = 1024 * 1024
_ATTEMPTS = 4
_DELAYS = (0.2, 0.5, 1.0, 2.0)


class IntegrityError(Exception):
    """
    Bytes that came do not have the digest that they are named by.
    """


def no_progress(_done: int, _total: int) -> None:
    """
    Tells nobody.
    """


class Attempts:
    """
    Counts attempts at something that may be done again, as long as the service is just not available.
    """

    def __init__(self) -> None:
        self._failed = 0
        self._gained = 0

    def delay(self, error: grpc.RpcError, gained: int = 0) -> float:
        """
        Seconds to wait before the next attempt.

        Args:
            error: what ended the last one.
            gained: how far all of them came, in whatever unit; those that got on do not count.

        Raises:
            grpc.RpcError: *error* itself, when another attempt cannot help or there were enough.
        """
        problem = explain(error)
        if gained > self._gained:
            self._gained, self._failed = gained, 0
        self._failed += 1
        if problem.code is not grpc.StatusCode.UNAVAILABLE or self._failed >= _ATTEMPTS:
            raise error
        return problem.retry_after or _DELAYS[self._failed - 1]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """
    A file to upload.

    Args:
        path: where it is.
        sha256: its digest, 64 lower-case hexadecimal digits.
        size_bytes: how large it is.
        media_type: such as text/plain; empty when nobody knows.
    """

    path: Path
    sha256: str
    size_bytes: int
    media_type: str

    @classmethod
    def of(cls, path: str | os.PathLike[str], media_type: str = "") -> Outgoing:
        """
        The file at *path*, read once for its digest.

        Raises:
            OSError: it cannot be read.
        """
        path = Path(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        return cls(path, sha256, size, media_type or mimetypes.guess_type(path.name)[0] or "")

    def messages(self, progress: Progress = no_progress) -> Iterator[assets_pb2.UploadRequest]:
        """
        The stream of AssetService.Upload.
        """
        header = assets_pb2.UploadRequest.Header(
            sha256=self.sha256, size_bytes=self.size_bytes, media_type=self.media_type
        )
        yield assets_pb2.UploadRequest(header=header)
        offset = 0
        with self.path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                yield assets_pb2.UploadRequest(chunk=assets_pb2.Chunk(offset=offset, data=data))
                offset += len(data)
                progress(offset, self.size_bytes)


class Incoming:
    """
    A file to download: its bytes are gathered beside it under a name with the digest, and moved in place when verified.

    Args:
        asset: what to download.
        path: of the file.
        progress: told after each chunk.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, asset: assets_pb2.Asset, path: str | os.PathLike[str], progress: Progress = no_progress) -> None:
        self._asset = asset
        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.name[:100]}.{asset.sha256[:16]}.part")
        self._progress = progress
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._resumed = False
        self.received = 0

    def __enter__(self) -> Incoming:
        if self._path.is_dir():
            raise IsADirectoryError(f"{self._path} is a folder")
        self._file = self._part.open("a+b")
        self._file.seek(0)
        while data := self._file.read(_CHUNK_BYTES):
            self._hash.update(data)
            self.received += len(data)
        if self.received > self._asset.size_bytes:
            self._restart()
        self._resumed = self.received > 0
        self._progress(self.received, self._asset.size_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            if not self.received:
                self._part.unlink(missing_ok=True)

    @property
    def missing(self) -> bool:
        """
        Whether bytes are missing.
        """
        return self.received < self._asset.size_bytes

    def request(self) -> assets_pb2.DownloadRequest:
        """
        The request for the missing bytes.
        """
        return assets_pb2.DownloadRequest(name=self._asset.name, offset=self.received)

    def take(self, chunk: assets_pb2.Chunk) -> None:
        """
        Write what came.

        Raises:
            IntegrityError: it does not go on where the last chunk ended, or goes past the end.
            OSError: it cannot be written.
        """
        if chunk.offset != self.received or self.received + len(chunk.data) > self._asset.size_bytes:
            raise IntegrityError(f"a chunk of {self._asset.name} came for {chunk.offset}, not for {self.received}")
        self._open_file.write(chunk.data)
        self._hash.update(chunk.data)
        self.received += len(chunk.data)
        self._progress(self.received, self._asset.size_bytes)

    def ended(self) -> None:
        """
        The stream has ended without an error.

        Raises:
            IntegrityError: before all bytes came.
        """
        if self.missing:
            raise IntegrityError(f"the stream of {self._asset.name} ended after {self.received} bytes")

    def finish(self) -> bool:
        """
        Verify the digest and move the file in place.

        Returns:
            Whether that was done. If not, what an earlier download left was damaged, and all bytes are missing again.

        Raises:
            IntegrityError: the bytes that came are not those of the name; they are thrown away.
            OSError: the file cannot be written.
        """
        if self._hash.hexdigest() != self._asset.sha256:
            self._restart()
            if self._resumed:
                self._resumed = False
                return False
            raise IntegrityError(f"the bytes that came for {self._asset.name} have another sha256: nothing was kept")
        self._open_file.flush()
        os.fsync(self._open_file.fileno())
        self._part.replace(self._path)
        return True

    @property
    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("not inside a with statement")
        return self._file

    def _restart(self) -> None:
        self._open_file.truncate(0)
        self._hash = hashlib.sha256()
        self.received = 0
