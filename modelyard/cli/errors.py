"""
What a command does not do.
"""

from __future__ import annotations


class RefusedError(Exception):
    """
    A command will not do what it was told, and has done nothing of it; the text says what to change.
    """
