"""
Errors of file contents, as opposed to failed calls.
"""

from __future__ import annotations


class IntegrityError(Exception):
    """
    Bytes do not match their digest.
    """


class FileChangedError(IntegrityError):
    """
    A file changed while it was sent; nothing was stored under the digest that it had.
    """
