"""
The call in progress, for whatever is too deep to be handed a context: log records and outgoing calls.
"""

from __future__ import annotations

import itertools
import secrets
from contextvars import ContextVar

from services.chassis.access.identity import Identity
from services.chassis.calls import Method
from services.chassis.context import Context

REQUEST_ID = "x-request-id"

_MOST_CHARACTERS = 128

# Ids made here are unique by the process's random prefix: a counter is ten times cheaper than a uuid per call.
_prefix = secrets.token_hex(6)
_numbers = itertools.count(1)


class CurrentCall:
    """
    A call and its request id, which is looked for only when somebody asks for it.
    """

    __slots__ = ("_request_id", "context", "identity", "method", "started")

    def __init__(self, method: Method, context: Context, started: float) -> None:
        self.method = method
        self.context = context
        self.started = started
        self.identity: Identity | None = None
        self._request_id: str | None = None

    @property
    def request_id(self) -> str:
        """
        The client's `x-request-id`, or one of our own making if it sent none that is fit to be logged.
        """
        if self._request_id is None:
            self._request_id = _sent(self.context) or f"{_prefix}-{next(_numbers):x}"
        return self._request_id


_current: ContextVar[CurrentCall | None] = ContextVar("modelyard_call", default=None)
enter = _current.set


def current_call() -> CurrentCall | None:
    """
    The call that the running task serves, or None outside of calls.
    """
    return _current.get()


def request_id() -> str | None:
    """
    The id of the call in progress: send it along as `x-request-id` with every outgoing call.
    """
    call = _current.get()
    return None if call is None else call.request_id


def identity() -> Identity | None:
    """
    Who makes the call in progress, as its token says; None while access control is off.
    """
    call = _current.get()
    return None if call is None else call.identity


def _sent(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID:
            # It is echoed, and trailers hold printable ASCII only.
            fit = isinstance(value, str) and 0 < len(value) <= _MOST_CHARACTERS and value.isascii()
            return str(value) if fit and str(value).isprintable() else None
    return None
