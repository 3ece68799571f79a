"""
What is done round every call of every service, in this order, the first outermost:

1. calling gives the call its request id and its trace before anything can go wrong, and says whose word is taken for
   who calls (while access control is off);
2. spans exports what became of it, where that is asked for;
3. errors answers with the status of whatever is raised further in;
4. access lets nobody further in who may not (while access control is on);
5. streams bounds how many there are and how long they stay;
6. deadline lets everything below know how much time is left;
7. fault makes calls late, in drills.

What is counted and logged is outside of all this: the host does it, see `services.chassis.observability.call_recorder`.
"""

from collections.abc import Mapping

from services.chassis.access.callers import Bounds, Proxies
from services.chassis.deadlines import outgoing_timeout, remaining
from services.chassis.interceptors.access import AccessInterceptor
from services.chassis.interceptors.base import CallInterceptor, Observer, outcome
from services.chassis.interceptors.call_context import REQUEST_ID, caller, client, current_call, identity, request_id
from services.chassis.interceptors.call_id import CallIdInterceptor
from services.chassis.interceptors.deadline import DeadlineInterceptor
from services.chassis.interceptors.errors import ErrorInterceptor
from services.chassis.interceptors.fault import FaultInterceptor
from services.chassis.interceptors.spans import SpanInterceptor
from services.chassis.interceptors.streams import StreamInterceptor
from services.chassis.observability.tracing import Spans
from services.chassis.serving.calls import Interceptor


def standard(
    *,
    default_deadline: float = 60.0,
    spans: Spans | None = None,
    access: AccessInterceptor | None = None,
    delays: Mapping[str, float] | None = None,
    proxies: Proxies | None = None,
    streams: StreamInterceptor | None = None,
) -> tuple[Interceptor, ...]:
    """
    The interceptors of every service, in order.

    Args:
        default_deadline: seconds for a unary call whose client set none.
        spans: where spans are exported, what makes them.
        access: None lets everybody in.
        delays: of methods, in seconds, for drills.
        proxies: who may say on whose behalf they call; those on this machine unless they are given.
        streams: None bounds none.
    """
    return (
        # A token says who calls, where there is one.
        CallIdInterceptor((proxies or Proxies()) if access is None else None),
        *(() if spans is None else (SpanInterceptor(spans),)),
        ErrorInterceptor(),
        *([] if access is None else [access]),
        *([] if streams is None else [streams]),
        DeadlineInterceptor(default_deadline),
        *([FaultInterceptor(delays)] if delays else []),
    )


__all__ = [
    "REQUEST_ID",
    "AccessInterceptor",
    "Bounds",
    "CallIdInterceptor",
    "CallInterceptor",
    "DeadlineInterceptor",
    "ErrorInterceptor",
    "Observer",
    "SpanInterceptor",
    "StreamInterceptor",
    "caller",
    "client",
    "current_call",
    "identity",
    "outcome",
    "outgoing_timeout",
    "remaining",
    "request_id",
    "standard",
]
