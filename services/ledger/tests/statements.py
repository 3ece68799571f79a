"""
The statements that this process sends to one database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.ledger.store.servers import Server
from services.ledger.store.statements import Statement

Observer = Callable[[Any, Statement, tuple[Any, ...]], None]


@contextmanager
def observed(url: str, see: Observer) -> Iterator[None]:
    """
    Call *see* before each statement while the block runs.

    Args:
        url: of the database. Servers that other tests of this process share send statements to theirs at any time.
        see: takes the connection, the statement and its arguments; what it raises is the statement's error.
    """
    database, original = urlsplit(url).path.removeprefix("/"), Server.on

    async def on(self: Server, connection: Any, method: Any, statement: Statement, args: Any) -> Any:
        if connection._params.database == database:
            see(connection, statement, tuple(args))
        return await original(self, connection, method, statement, args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "on", on)
        yield
