"""
The download of a large file in several concurrent streams.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer import ranges
from modelyard.transfer.download import Download
from modelyard.transfer.errors import IntegrityError
from modelyard.transfer.hasher import BackgroundHasher
from modelyard.transfer.partial_file import about
from modelyard.transfer.progress import ProgressCallback, no_progress
from modelyard.transfer.ranges import Piece

#: Larger files are received in ranges, on systems with positioned writes.
RANGED_BYTES = 32 * 1024 * 1024 if hasattr(os, "pwrite") else 1 << 63
#: Concurrent streams of one download.
STREAMS = 4

# Bytes between two records of the received ranges: at most as many are downloaded again after a kill.
_SAVE_BYTES = 16 * 1024 * 1024


class RangeDownload(Download):
    """
    A file to download in ranges, into one partial file and a small file that records the received ranges. Safe to use
    from several threads; the progress callback is called by one at a time.
    """

    def __init__(
        self, asset: assets_pb2.Asset, path: str | os.PathLike[str], progress: ProgressCallback = no_progress
    ) -> None:
        super().__init__(asset, path, progress)
        self._notes: Path = self._part.with_name(f"{self._part.name}.ranges")
        self._pieces: list[Piece] = []
        self._waiting: list[Piece] = []
        # The number of complete pieces at the start of the file.
        self._front = 0
        self._hasher: BackgroundHasher | None = None
        self._unsaved = 0

    def next(self) -> Piece | None:
        """
        The next piece to download; None if there is none left.
        """
        with self._lock:
            return self._waiting.pop(0) if self._waiting else None

    def request(self, piece: Piece) -> assets_pb2.DownloadRequest:
        """
        The request for the missing bytes of *piece*.
        """
        return assets_pb2.DownloadRequest(
            name=self._asset.name, offset=piece.done, limit=piece.end - piece.done, without_digest=True
        )

    def take(self, piece: Piece, chunk: assets_pb2.Chunk) -> None:
        """
        Write a received chunk of *piece*.

        Raises:
            IntegrityError: its offset is not the end of the last chunk, or it exceeds the piece.
            OSError: the file cannot be written.
        """
        if chunk.offset != piece.done or piece.done + len(chunk.data) > piece.end:
            raise IntegrityError(f"a chunk of {self._asset.name} has offset {chunk.offset}, expected {piece.done}")
        with self._lock, about(self._path):
            _write(self._open_file.fileno(), chunk.data, chunk.offset)
            piece.done += len(chunk.data)
            self.received += len(chunk.data)
            self._unsaved += len(chunk.data)
            self._follow()
            if self._unsaved >= _SAVE_BYTES:
                ranges.save(self._notes, self._pieces)
                self._unsaved = 0
            self._progress(self.received, self._asset.size_bytes)

    def ended(self, piece: Piece) -> None:
        """
        Check that *piece* is complete after its stream ended without an error.

        Raises:
            IntegrityError: bytes are missing.
        """
        if piece.missing:
            raise IntegrityError(f"a stream of {self._asset.name} ended at byte {piece.done}, not at {piece.end}")

    def _look(self) -> None:
        pieces = ranges.load(self._notes, self._asset.size_bytes)
        # A shorter file than recorded has lost bytes.
        there = os.fstat(self._open_file.fileno()).st_size
        if pieces is None or any(piece.done > max(there, piece.start) for piece in pieces):
            self._restart()
        else:
            self._begin(pieces)

    def _leave(self) -> None:
        self._stop_following()
        if self.received:
            ranges.save(self._notes, self._pieces)
        else:
            self._notes.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)

    def _digest(self) -> str:
        return self._following.digest()

    @property
    def _following(self) -> BackgroundHasher:
        if self._hasher is None:
            raise ValueError("not inside a with statement")
        return self._hasher

    def _restart(self) -> None:
        self._stop_following()
        self._notes.unlink(missing_ok=True)
        self._open_file.truncate(0)
        self._begin(ranges.cut(self._asset.size_bytes, STREAMS))

    def _begin(self, pieces: list[Piece]) -> None:
        self._pieces = pieces
        self._waiting = [piece for piece in pieces if piece.missing]
        self.received = sum(piece.done - piece.start for piece in pieces)
        self._front = 0
        self._hasher = BackgroundHasher(self._open_file, self._asset.size_bytes)
        self._follow()

    def _follow(self) -> None:
        last = len(self._pieces) - 1
        while self._front < last and not self._pieces[self._front].missing:
            self._front += 1
        self._following.reach(self._pieces[self._front].done)

    def _stop_following(self) -> None:
        if self._hasher is not None:
            self._hasher.close()
            self._hasher = None


def _write(number: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(number, view, offset)
        view, offset = view[count:], offset + count
