"""
The digest of a file, computed in the background while the file is written.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import BinaryIO

_BLOCK_BYTES = 1024 * 1024
# Bytes between two fdatasync calls.
_SYNC_BYTES = 16 * 1024 * 1024

_sync = getattr(os, "fdatasync", os.fsync)


class BackgroundHasher:
    """
    Hashes a file in a thread that follows its writers, so that the digest is known soon after the last byte; and
    flushes it to disk meanwhile, so that the final fsync is short.

    Args:
        file: the file, written without its buffer.
        size: final size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        # A descriptor of its own: the file may be closed at any time.
        self._number = os.dup(file.fileno())
        self._size = size
        self._hash = hashlib.sha256()
        self._changed = threading.Condition()
        self._there = 0
        self._closed = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="modelyard-hash", daemon=True)
        self._thread.start()

    def reach(self, there: int) -> None:
        """
        Announce that all bytes before *there* are written.
        """
        with self._changed:
            self._there = there
            self._changed.notify()

    def digest(self) -> str:
        """
        Wait for the SHA-256 of the whole file, after `reach` was called with its size.

        Raises:
            OSError: it cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def close(self) -> None:
        """
        Stop reading.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        done = synced = 0
        try:
            while done < self._size and (there := self._beyond(done)):
                done += self._take(done, min(there - done, _BLOCK_BYTES))
                if done - synced >= _SYNC_BYTES:
                    _sync(self._number)
                    synced = done
        except OSError as error:
            self._error = error
        finally:
            os.close(self._number)

    def _beyond(self, done: int) -> int:
        """
        Wait for bytes beyond *done*; returns the offset of their end, or 0 after `close`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._there > done)
            return 0 if self._closed else self._there

    def _take(self, offset: int, size: int) -> int:
        data = os.pread(self._number, size, offset)
        if not data:
            raise OSError(f"the file ended at byte {offset} while it was written")
        self._hash.update(data)
        return len(data)
