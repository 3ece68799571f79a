"""
Exceptions become statuses here and nowhere else (docs/adr/0007).
"""

from __future__ import annotations

import logging

import grpc

from services.chassis.errors import DataLoss, DeadlineExceeded, Internal, ModelyardError, Unavailable
from services.chassis.interceptors import call_context
from services.chassis.interceptors.base import CallInterceptor, Observer
from services.chassis.interceptors.status import DETAILS, rich_status, status_code
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context

_log = logging.getLogger(__name__)


class ErrorInterceptor(CallInterceptor):
    """
    Turn exceptions into statuses, so that no servicer has to.
    """

    def observe(self, method: Method) -> Observer:
        """
        An observer that answers with the status of whatever the calls of *method* raise.
        """
        return _Errors(method)


class _Errors:
    __slots__ = ("_method",)

    def __init__(self, method: Method) -> None:
        self._method = method

    def begin(self, _context: Context) -> None:
        return None

    def end(self, _context: Context, _state: None) -> None:
        return None

    async def fail(self, context: Context, _state: None, error: BaseException) -> None:
        # Cancellation and a generator's end are no exceptions of Python's; AbortError is one, and has been answered.
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return
        request_id = call_context.request_id() or ""
        answer = _known(error)
        if answer is None or isinstance(answer, Internal | DataLoss):
            self._report(error)
        if answer is None:
            answer = Internal("INTERNAL", f"internal error, request id {request_id}")
        status = rich_status(answer)
        extra = ((DETAILS, status.SerializeToString()), (call_context.REQUEST_ID, request_id))
        context.set_trailing_metadata((*context.trailing_metadata(), *extra))
        await context.abort(status_code(answer), status.message)

    def _report(self, error: Exception) -> None:
        # The one record of it: the access line of an INTERNAL call stays at DEBUG.
        names = {"service": self._method.service, "method": self._method.name}
        _log.error("%s failed: %s", self._method.path, type(error).__name__, exc_info=error, extra=names)


def _known(error: Exception) -> ModelyardError | None:
    if isinstance(error, ModelyardError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("DEADLINE_EXCEEDED", "the call took longer than its deadline allows")
    if isinstance(error, grpc.aio.AioRpcError):
        return _from_dependency(error)
    return None


def _from_dependency(error: grpc.aio.AioRpcError) -> ModelyardError | None:
    """
    Map the error of an outgoing call that nobody handled; its message is not exposed to the client.
    """
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable("DEPENDENCY_UNAVAILABLE", "a service that this call needs is not available", retry_after=1)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("DEADLINE_EXCEEDED", "a service that this call needs did not answer in time")
    return None
