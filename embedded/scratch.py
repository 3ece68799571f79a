"""
Temporary state folders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch() -> Iterator[Path]:
    """
    A state folder that every user may enter (PostgreSQL does not run as root), removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
