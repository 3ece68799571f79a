"""
Request ids: assigned at the start of each call, and returned to the caller.
"""

from __future__ import annotations

from services.chassis.access.callers import Proxies
from services.chassis.interceptors.base import CallInterceptor, Observer
from services.chassis.interceptors.call_context import REQUEST_ID, CurrentCall, enter
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context


class CallIdInterceptor(CallInterceptor):
    """
    Make each call the current one, with its request id, and echo that. The error interceptor does it for failures.

    Args:
        proxies: who may say who calls, and from where; None: nobody.
    """

    def __init__(self, proxies: Proxies | None = None) -> None:
        self._proxies = proxies

    def observe(self, method: Method) -> Observer:
        """
        An observer that names the calls of *method*.
        """
        return _Named(method, self._proxies)


class _Named:
    __slots__ = ("_method", "_proxies")

    def __init__(self, method: Method, proxies: Proxies | None) -> None:
        self._method = method
        self._proxies = proxies

    def begin(self, context: Context) -> CurrentCall:
        call = CurrentCall(self._method, context, self._proxies)
        enter(call)
        return call

    def end(self, context: Context, call: CurrentCall) -> None:
        context.set_trailing_metadata((*context.trailing_metadata(), (REQUEST_ID, call.request_id)))

    async def fail(self, _context: Context, _call: CurrentCall, _error: BaseException) -> None:
        return None
