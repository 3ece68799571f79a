"""
The download of a file: what is common to all transports.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer.errors import IntegrityError
from modelyard.transfer.locks import try_lock
from modelyard.transfer.partial_file import about, check_asset, is_at, open_part, part_of, settle
from modelyard.transfer.progress import ProgressCallback, no_progress
from modelyard.transfer.upload_source import digest


class Download(ABC):
    """
    A file to download: its bytes are written to a partial file beside it and moved into place once verified.
    Of several downloads to the same path, one proceeds and the others wait for it.

    Args:
        asset: asset to download.
        path: path of the file.
        progress: called after each chunk.

    Raises:
        IntegrityError: the asset's name does not match its digest.
    """

    #: The file beside the partial file that records the received ranges; None if bytes are received in order.
    _notes: Path | None = None

    def __init__(
        self, asset: assets_pb2.Asset, path: str | os.PathLike[str], progress: ProgressCallback = no_progress
    ) -> None:
        check_asset(asset)
        self._asset = asset
        self._path = Path(path)
        self._part = part_of(self._path, asset.sha256)
        self._progress = progress
        # Guards opening, writing and closing: a thread that still writes must not meet a reused file descriptor.
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._ended = False
        # Another download of the same file was in progress.
        self._waited = False
        # The file is in place.
        self._settled = False
        self._resumed = False
        self.received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended = True
            if self._file is None:
                return
            file, self._file = self._file, None
            # The lock is held until the file is closed.
            with about(self._path), file:
                if not self._settled:
                    self._leave()

    def begin(self) -> bool:
        """
        Lock the partial file, and load what an earlier download left in it; does nothing if that is done already.

        Returns:
            Whether it is locked. If not, another download of the same file is in progress: call again later.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock, about(self._path):
            if self._file is not None or self._settled:
                return True
            file = None if self._ended else self._taken()
            if file is None:
                self._progress(0, self._asset.size_bytes)
                return False
            self._file = file
            if self._waited and self._is_there():
                self._leave()
                self._settled = True
                self.received = self._asset.size_bytes
                return True
            self._look()
            self._resumed = self.received > 0
            self._progress(self.received, self._asset.size_bytes)
            return True

    def _taken(self) -> BinaryIO | None:
        file = open_part(self._part, self._path)
        if try_lock(file) and is_at(file, self._part):
            return file
        file.close()
        self._waited = True
        return None

    def _is_there(self) -> bool:
        # The other download has moved the file in place, or failed.
        if os.fstat(self._open_file.fileno()).st_size:
            return False
        try:
            with self._path.open("rb") as file:
                right = os.fstat(file.fileno()).st_size == self._asset.size_bytes
                return right and digest(file, self._progress) == self._asset.sha256
        except FileNotFoundError:
            return False

    def finish(self) -> bool:
        """
        Verify the digest, and move the file in place.

        Returns:
            Whether the file is in place. If not, what an earlier download left was damaged: download all bytes again.

        Raises:
            IntegrityError: the received bytes do not match the digest; they are discarded.
            OSError: the file cannot be written.
        """
        if self._settled:
            return True
        with about(self._path):
            if self._digest() != self._asset.sha256:
                self._restart()
                if self._resumed:
                    self._resumed = False
                    return False
                raise IntegrityError(
                    f"the received bytes of {self._asset.name} have another sha256: they were discarded"
                )
            settle(self._open_file, self._part, self._path, self._notes)
        self._settled = True
        return True

    @property
    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("not inside a with statement")
        return self._file

    @abstractmethod
    def _look(self) -> None:
        """
        Load what an earlier download left.
        """

    @abstractmethod
    def _digest(self) -> str:
        """
        The SHA-256 of the received bytes, in hexadecimal.
        """

    @abstractmethod
    def _leave(self) -> None:
        """
        Keep what the next download can resume from, and delete the rest. The file is open and locked.
        """

    @abstractmethod
    def _restart(self) -> None:
        """
        Discard the received bytes.
        """
