"""
Errors of file contents, as opposed to failed calls.
"""

from __future__ import annotations


class IntegrityError(Exception):
    """
    Bytes do not have the digest that they are named by.
    """


class FileChangedError(IntegrityError):
    """
    A file is no longer the one that was hashed: it changed while it was sent, and nothing was stored under its digest.
    """
