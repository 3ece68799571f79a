"""
The call in progress as a context variable, for log records and outgoing calls.
"""

from __future__ import annotations

import itertools
import secrets
from contextvars import ContextVar

from services.chassis.access.callers import Proxies, peer_of
from services.chassis.access.identity import Identity
from services.chassis.access.tokens import Verifier
from services.chassis.observability import tracing
from services.chassis.observability.tracing import Span, Trace
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context, fit, values_of

REQUEST_ID = "x-request-id"
_SUBJECT = "x-modelyard-subject"

_MOST_CHARACTERS = 128
_MOST_SUBJECT = 256
_NOBODY = Proxies(())

# Generated ids are unique by the process's random prefix: a counter is ten times cheaper than a UUID per call.
_prefix = secrets.token_hex(6)
_numbers = itertools.count(1)


class CurrentCall:
    """
    A call, its request id and its trace, which are determined on first use.

    Attributes:
        method, context: of the call.
        span: its span; None unless spans are exported.
        identity: from its verified token; None while access control is off.
        proxies: the trusted proxies, which may state the original caller; None for none.
        verifier: of tokens; None while access control is off.
        break_glass: the caller does what only its scope `admin` allows.
        peer: the address of the connection, read when the call begins: grpcio releases a cancelled call without
            reporting it as done, and asking then ends the process.
    """

    __slots__ = (
        "_request_id",
        "_trace",
        "break_glass",
        "context",
        "identity",
        "method",
        "peer",
        "proxies",
        "span",
        "verifier",
    )

    def __init__(self, method: Method, context: Context, proxies: Proxies | None = None, peer: str = "") -> None:
        self.method = method
        self.context = context
        self.identity: Identity | None = None
        self.verifier: Verifier | None = None
        self.break_glass = False
        self.proxies = proxies
        self.peer = peer or peer_of(context)
        self.span: Span | None = None
        self._request_id: str | None = None
        self._trace: Trace | None = None

    @property
    def request_id(self) -> str:
        """
        The client's `x-request-id`, or a generated id if the client sent none that is fit to be logged.
        """
        if self._request_id is None:
            # Generated first: grpcio logs metadata that it cannot decode when it is read, and log records read the
            # request id.
            self._request_id = f"{_prefix}-{next(_numbers):x}"
            self._request_id = self._sent(REQUEST_ID, _MOST_CHARACTERS) or self._request_id
        return self._request_id

    @property
    def trace(self) -> Trace:
        """
        The trace context: a child of the caller's, or a new trace if the caller sent none.
        """
        if self._trace is None:
            if self.span is not None:
                self._trace = self.span.trace
            else:
                self._trace = tracing.new()
                if (above := tracing.received(self.context.invocation_metadata() or ())) is not None:
                    self._trace = above.child()
        return self._trace

    @property
    def caller(self) -> str:
        """
        The subject of the caller's token; while access control is off, the subject that a trusted proxy states, or an
        empty string.
        """
        if self.identity is not None:
            return self.identity.subject
        said = self._sent(_SUBJECT, _MOST_SUBJECT)
        trusted = said is not None and self.proxies is not None and self.proxies.trust(self.peer)
        return (said or "") if trusted else ""

    @property
    def client(self) -> str:
        """
        The caller's IP address: as a trusted proxy states it, otherwise that of the connection.
        """
        return (self.proxies or _NOBODY).client(self.context, self.peer)

    def _sent(self, name: str, most: int) -> str | None:
        found = values_of(self.context, name)
        return fit(found[0], most) if found else None


_current: ContextVar[CurrentCall | None] = ContextVar("modelyard_call", default=None)
enter = _current.set


def current_call() -> CurrentCall | None:
    """
    The call that the running task serves; None outside of calls.
    """
    return _current.get()


def request_id() -> str | None:
    """
    The id of the call in progress.
    """
    call = _current.get()
    return None if call is None else call.request_id


def caller() -> str:
    """
    The caller of the call in progress (see `CurrentCall.caller`).
    """
    call = _current.get()
    return "" if call is None else call.caller


def client() -> str:
    """
    The client address of the call in progress (see `CurrentCall.client`).
    """
    call = _current.get()
    return "" if call is None else call.client


def identity() -> Identity | None:
    """
    The verified identity of the caller; None while access control is off.
    """
    call = _current.get()
    return None if call is None else call.identity


def named(call: CurrentCall) -> dict[str, str]:
    """
    The fields of log records that belong to *call*.
    """
    return {"request_id": call.request_id, "trace_id": call.trace.trace_id, "span_id": call.trace.span_id}
