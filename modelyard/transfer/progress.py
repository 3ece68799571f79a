"""
How far a transfer is.
"""

from __future__ import annotations

from collections.abc import Callable

#: Called with the bytes done and the bytes in all, first with what was there before; what it raises ends the transfer.
#: A transfer that has to send something again says so: the bytes done become fewer.
ProgressCallback = Callable[[int, int], None]


def no_progress(_done: int, _total: int) -> None:
    """
    Tells nobody.
    """
