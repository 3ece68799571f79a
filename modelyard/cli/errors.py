"""
Errors of commands.
"""

from __future__ import annotations


class RefusedError(Exception):
    """
    A command refuses its task before doing any of it; the message says what to change.
    """


class FileError(Exception):
    """
    One of several files failed.

    Args:
        name: name of the file.
        cause: its error.
    """

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause
