"""
Who may call what: see docs/adr/0018.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.chassis.access import Access
from services.chassis.access.policy import Check
from services.chassis.access.tokens import Verifier
from services.chassis.interceptors.base import CallInterceptor, Observer
from services.chassis.interceptors.call_context import current_call
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context


class AccessInterceptor(CallInterceptor):
    """
    Let through only callers whose token has the scope that the method asks for.

    Args:
        access: what is checked.
        scopes: which one each method needs, by path. A method that is not in it is denied.
    """

    def __init__(self, access: Access, scopes: Mapping[str, str]) -> None:
        self._access = access
        self._scopes = scopes

    def observe(self, method: Method) -> Observer:
        """
        An observer that checks the calls of *method*.
        """
        return _Guard(self._access.check(method.path, self._scopes), self._access.verifier)


class _Guard:
    __slots__ = ("_check", "_verifier")

    def __init__(self, check: Check, verifier: Verifier) -> None:
        self._check = check
        self._verifier = verifier

    def begin(self, context: Context) -> None:
        found = self._check(context)
        if (call := current_call()) is not None:
            call.identity = found
            call.verifier = self._verifier

    def end(self, _context: Context, _state: None) -> None:
        return None

    async def fail(self, _context: Context, _state: None, _error: BaseException) -> None:
        return None
