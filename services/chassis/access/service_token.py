"""
The token that a service sends with calls on its own behalf.
"""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger(__name__)


class ServiceToken:
    """
    A token in a file, reloaded when the file is replaced.

    Args:
        file: None where services need no token.
    """

    def __init__(self, file: str | None = None) -> None:
        self._file = None if file is None else Path(file)
        self._state: tuple[int, int, int] | None = None
        self._token = ""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """
        The metadata of a call. If the file cannot be read, the previous token stays in use.
        """
        if self._file is None:
            return ()
        try:
            found = self._file.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state != self._state:
                self._token = self._file.read_text(encoding="utf-8").strip()
                self._state = state
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("cannot read the token of this service from %s: %s", self._file, error)
        return (("authorization", f"Bearer {self._token}"),) if self._token else ()
