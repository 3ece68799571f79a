"""
File locks between the processes of one machine, or of the machines of a shared volume.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt

    # Locks are mandatory on Windows: one byte past the end of any file.
    _PLACE = 1 << 62

    def try_lock(file: BinaryIO) -> bool:
        """
        Lock *file* exclusively until it is closed; returns whether that succeeded.
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
        Lock *file* exclusively until it is closed or the process ends; returns whether that succeeded. On a file system
        without locks it succeeds: a single process must not be locked out.
        """
        # flock locks the open file, not the process: it also excludes two threads of one process.
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True
