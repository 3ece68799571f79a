"""
The download of a small file in one stream.
"""

from __future__ import annotations

import hashlib
import os

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer.download import Download
from modelyard.transfer.errors import IntegrityError
from modelyard.transfer.partial_file import about
from modelyard.transfer.progress import ProgressCallback, no_progress

_CHUNK_BYTES = 1024 * 1024


class StreamDownload(Download):
    """
    A file to download in one stream.
    """

    def __init__(
        self, asset: assets_pb2.Asset, path: str | os.PathLike[str], progress: ProgressCallback = no_progress
    ) -> None:
        super().__init__(asset, path, progress)
        self._hash = hashlib.sha256()

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
        return assets_pb2.DownloadRequest(name=self._asset.name, offset=self.received, without_digest=True)

    def take(self, chunk: assets_pb2.Chunk) -> None:
        """
        Write a received chunk.

        Raises:
            IntegrityError: its offset is not the end of the last chunk, or it exceeds the asset.
            OSError: the file cannot be written.
        """
        if chunk.offset != self.received or self.received + len(chunk.data) > self._asset.size_bytes:
            raise IntegrityError(f"a chunk of {self._asset.name} has offset {chunk.offset}, expected {self.received}")
        with self._lock, about(self._path):
            self._open_file.write(chunk.data)
        self._hash.update(chunk.data)
        self.received += len(chunk.data)
        self._progress(self.received, self._asset.size_bytes)

    def ended(self) -> None:
        """
        Check that all bytes were received after the stream ended without an error.

        Raises:
            IntegrityError: bytes are missing.
        """
        if self.missing:
            raise IntegrityError(f"the stream of {self._asset.name} ended after {self.received} bytes")

    def _look(self) -> None:
        while data := self._open_file.read(_CHUNK_BYTES):
            self._hash.update(data)
            self.received += len(data)
        if self.received > self._asset.size_bytes:
            self._restart()

    def _leave(self) -> None:
        if not self.received:
            self._part.unlink(missing_ok=True)

    def _digest(self) -> str:
        return self._hash.hexdigest()

    def _restart(self) -> None:
        self._open_file.seek(0)
        self._open_file.truncate()
        self._hash = hashlib.sha256()
        self.received = 0
