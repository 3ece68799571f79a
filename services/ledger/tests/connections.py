"""
Which database a connection belongs to.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit


def belongs(connection: Any, url: str) -> bool:
    """
    Whether a connection is one to the database of *url*. What a test observes of all connections of its process
    includes those of servers that other tests of the process share.
    """
    found = getattr(connection, "_con", connection)
    return bool(found._params.database == urlsplit(url).path.removeprefix("/"))
