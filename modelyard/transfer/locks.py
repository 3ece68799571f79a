"""
Who may write into a file that several processes would write into, on one machine or on a shared volume.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt

    # A lock there keeps others from the bytes themselves: one byte, past the end of any file.
    _PLACE = 1 << 62

    def try_lock(file: BinaryIO) -> bool:
        """
        See below.
        """
        place = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        os.lseek(file.fileno(), _PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file.fileno(), place, os.SEEK_SET)
        return True

else:
    import fcntl

    def try_lock(file: BinaryIO) -> bool:
        """
        Have *file* for oneself until it is closed, however the process ends; returns whether that is so. Where the file
        system knows no locks it is: whoever is alone there must not be kept out.
        """
        # Of the open file, not of the process: two threads that download the same are two, as well.
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True
