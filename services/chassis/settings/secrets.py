"""
Secrets come from files that only the service can read, never from the environment.
"""

from __future__ import annotations

import stat
from pathlib import Path

_MOST_BYTES = 64 * 1024


class Secret:
    """
    A secret text that does not show itself: not in a repr, not in a log line, not in a traceback.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """
        The text, for the one call that needs it.
        """
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


def read_secret(path: Path) -> Secret:
    """
    Read the secret in a file; white space round it is dropped (editors and `echo` leave a newline).

    Raises:
        ValueError: the file is missing, empty, unreadable or too open; the message says which and what to do.
    """
    try:
        state = path.stat()  # follows links: Kubernetes mounts secrets as links to the file
        _check(path, state.st_mode, state.st_size)
        content = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ValueError("there is no such file: create it, or unset the variable") from None
    except UnicodeDecodeError:
        raise ValueError("the file is not text (UTF-8)") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror}): give it to the user of this process") from None
    if not content:
        raise ValueError("the file is empty: write the secret into it")
    return Secret(content)


def _check(path: Path, mode: int, size: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError("this is not a file")
    # The group may read: that is how Kubernetes gives a secret to an unprivileged user (fsGroup).
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ValueError(f"the file is open to other users (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {path}`")
    if size > _MOST_BYTES:
        raise ValueError(f"the file is too large for a secret ({size} bytes)")
