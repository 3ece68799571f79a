"""
The bearer token of a client.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Protocol

# What a header can carry, without blanks: all tokens are made of less (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[\x21-\x7e]+")


class TokenSource(Protocol):
    """
    Where the token of each call comes from.
    """

    def due(self) -> bool:
        """
        Whether `read` may take long: a token has to be fetched.
        """

    def read(self) -> str:
        """
        The token.

        Raises:
            LoginError: there is none.
        """


class TokenFile:
    """
    A token in a file, read again when the file changes.

    Args:
        path: path of the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it does not contain a valid token.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._token = ""
        self._state: tuple[int, int, int] | None = None
        self._look()

    def due(self) -> bool:
        """
        False: a file is read at once.
        """
        return False

    def read(self) -> str:
        """
        The token. While the file is missing, empty or incomplete, the last valid token is returned.
        """
        with contextlib.suppress(OSError, ValueError):
            self._look()
        return self._token

    def _look(self) -> None:
        found = self._path.stat()
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        if state != self._state:
            self._token = checked(self._path.read_text(encoding="utf-8"), f"what {self._path} holds")
            self._state = state


def checked(text: str, what: str) -> str:
    """
    A valid token without surrounding blanks and line breaks.

    Args:
        text: the token.
        what: its source, for the error message: the token itself is never shown.

    Raises:
        ValueError: it contains characters that no header can carry.
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{what} is not a token: it has only visible ASCII characters, without blanks or line breaks")
    return token


def choose_token(token: str | None, file: str | os.PathLike[str] | None, server: str = "") -> str | TokenSource | None:
    """
    The token of a client: *token*, or that in *file*, otherwise from MODELYARD_TOKEN or MODELYARD_TOKEN_FILE, otherwise
    of the login at *server*. An empty token means none.

    Args:
        token: the token.
        file: the file with the token.
        server: the server's URL, from `server_of`; empty if no login may be used.

    Raises:
        OSError: the file cannot be read.
        ValueError: both are given, or the token is invalid.
        LoginError: the credentials of the login cannot be used.
    """
    if token is not None and file is not None:
        raise ValueError("a token and a token file are given: one is enough")
    if token is None and file is None:
        token, file = os.environ.get("MODELYARD_TOKEN") or None, os.environ.get("MODELYARD_TOKEN_FILE") or None
        if token is not None and file is not None:
            raise ValueError("MODELYARD_TOKEN and MODELYARD_TOKEN_FILE are set: one is enough")
    if file is not None:
        return TokenFile(file)
    if token is None and server:
        # Here, because most clients have no login, and HTTP takes long to import.
        from modelyard.login.storage import load

        if (found := load(server)) is None:
            return None
        from modelyard.login.token import LoginToken

        return LoginToken(server, found)
    return checked(token, "what was given") if token else None
