"""
Progress callbacks of transfers.
"""

from __future__ import annotations

from collections.abc import Callable

#: Called with the transferred and the total number of bytes, first with those of earlier attempts. An exception ends
#: the transfer. The number decreases when bytes have to be transferred again.
ProgressCallback = Callable[[int, int], None]


def no_progress(_done: int, _total: int) -> None:
    """
    Ignore the progress.
    """
