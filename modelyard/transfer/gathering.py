"""
A file that is received, whichever way its bytes come.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer.errors import IntegrityError
from modelyard.transfer.parts import check_asset, open_part, part_of, settle
from modelyard.transfer.progress import Progress, no_progress


class Gathering(ABC):
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
        self._file: BinaryIO | None = None
        self._resumed = False
        self.received = 0

    def __enter__(self) -> Self:
        self._file = open_part(self._part, self._path)
        try:
            self._look()
            self._resumed = self.received > 0
            self._progress(self.received, self._asset.size_bytes)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def finish(self) -> bool:
        """
        Verify the digest and move the file in place.

        Returns:
            Whether that was done. If not, what an earlier download left was damaged, and all bytes are missing again.

        Raises:
            IntegrityError: the bytes that came are not those of the name; they are thrown away.
            OSError: the file cannot be written.
        """
        if self._digest() != self._asset.sha256:
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

    @abstractmethod
    def _look(self) -> None:
        """
        See what an earlier download left.
        """

    @abstractmethod
    def _digest(self) -> str:
        """
        Of all bytes that are there.
        """

    @abstractmethod
    def _restart(self) -> None:
        """
        Throw away what is there.
        """
