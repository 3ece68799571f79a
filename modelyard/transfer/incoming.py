"""
A small file that is received, in one stream.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer.errors import IntegrityError
from modelyard.transfer.parts import check_asset, open_part, part_of, settle
from modelyard.transfer.progress import Progress, no_progress

_CHUNK_BYTES = 1024 * 1024


class Incoming:
    """
    A file to download: its bytes are gathered beside it under a name with the digest, and moved in place when verified.

    Args:
        asset: what to download.
        path: of the file.
        progress: told after each chunk.

    Raises:
        IntegrityError: the asset's name is not that of its digest.
        OSError: the file cannot be written.
    """

    def __init__(self, asset: assets_pb2.Asset, path: str | os.PathLike[str], progress: Progress = no_progress) -> None:
        check_asset(asset)
        self._asset = asset
        self._path = Path(path)
        self._part = part_of(self._path, asset.sha256)
        self._progress = progress
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._resumed = False
        self.received = 0

    def __enter__(self) -> Incoming:
        self._file = open_part(self._part, self._path)
        try:
            self._begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _begin(self) -> None:
        while data := self._open_file.read(_CHUNK_BYTES):
            self._hash.update(data)
            self.received += len(data)
        if self.received > self._asset.size_bytes:
            self._restart()
        self._resumed = self.received > 0
        self._progress(self.received, self._asset.size_bytes)

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
        settle(self._open_file, self._part, self._path)
        return True

    @property
    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("not inside a with statement")
        return self._file

    def _restart(self) -> None:
        self._open_file.seek(0)
        self._open_file.truncate()
        self._hash = hashlib.sha256()
        self.received = 0
