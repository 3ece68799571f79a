"""
The interceptors of every service, in this order, outermost first:

1. call_id assigns the request id and the trace, and determines trusted proxies (while access control is off);
2. spans exports a span of each call, if configured;
3. errors converts exceptions to gRPC statuses;
4. access checks the token and its scopes (while access control is on);
5. streams limits the number and the duration of streams;
6. deadline propagates the remaining time;
7. fault injects delays, for drills;
8. permissions checks what the caller may do in the request's namespaces (while access control is on).

Metrics and access log are outside of all this, in the host: see `services.chassis.observability.call_recorder`.
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
from services.chassis.interceptors.permissions import PermissionInterceptor
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
    permissions: PermissionInterceptor | None = None,
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
        permissions: None checks none.
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
        *([] if permissions is None else [permissions]),
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
    "PermissionInterceptor",
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
