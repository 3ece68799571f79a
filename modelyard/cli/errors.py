"""
Errors of commands.
"""

from __future__ import annotations


class RefusedError(Exception):
    """
    A command will not do what it was told, and has done nothing of it; the text says what to change.
    """


class FileError(Exception):
    """
    One of several files failed.

    Args:
        name: which.
        cause: what went wrong with it.
    """

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause
