"""
Classification of the database driver's errors as `ModelyardError`s.
"""

from __future__ import annotations

import re

import asyncpg

from services.chassis.errors import Aborted, DeadlineExceeded, ModelyardError, ResourceExhausted, Unavailable

# Errors of a connection that is lost or about to be. InternalClientError is in no other class of asyncpg's errors: it
# comes from a connection that was idle when the server announced its shutdown.
CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# In the context of an error: 'while locking tuple (0,1) in relation "models"'.
_RELATION = re.compile(r'in relation "([^"]+)"')

_UNAVAILABLE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.PostgresIOError,
)


class Conflict(Aborted):
    """
    Two transactions conflicted: a retry helps.
    """

    def __init__(self) -> None:
        super().__init__("TRANSACTION_CONFLICT", "a concurrent write conflicted: retry", retry_after=0.1)


class LockTimeout(Aborted):
    """
    Another transaction held a lock for longer than the lock timeout.

    Args:
        lock: what is locked: "the row of namespaces/default/models/m in models".
        seconds: how long it was waited for, when that is known.
    """

    def __init__(self, lock: str, seconds: float | None = None) -> None:
        waited = "" if seconds is None else f" for {seconds:.1f} s"
        super().__init__(
            "LOCK_TIMEOUT",
            f"another transaction has held the lock of {lock}{waited}, and this write needs it: retry later",
            metadata={"lock": lock},
            retry_after=1.0,
        )


def locked_relation(error: BaseException) -> str:
    """
    The table in which a driver's error met a lock; "a row" when the server does not say.
    """
    found = _RELATION.search(str(getattr(error, "context", None) or ""))
    return f"a row of {found[1]}" if found else "a row"


def translate_error(error: BaseException) -> ModelyardError | None:
    """
    The error to raise in place of one of the driver's; None for anything else, which is a bug.
    """
    if isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.SerializationError):
        return Conflict()
    if isinstance(error, asyncpg.QueryCanceledError):
        return DeadlineExceeded("STATEMENT_TOO_SLOW", "the statement exceeded its timeout")
    if isinstance(error, asyncpg.LockNotAvailableError):
        return LockTimeout(locked_relation(error))
    if isinstance(error, asyncpg.InsufficientResourcesError):
        # Out of disk, memory or connections.
        return ResourceExhausted("DATABASE_FULL", "the database is out of resources: retry later", retry_after=5.0)
    if isinstance(error, asyncpg.InterfaceError) and "arguments for this query" in str(error):
        return None  # a bug: it has the same class as "the connection is closed"
    if isinstance(error, _UNAVAILABLE_ERRORS):
        return Unavailable("DATABASE_UNAVAILABLE", "the database does not answer: retry", retry_after=1.0)
    return None
