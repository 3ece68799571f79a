"""
Whose word is taken for who calls, where no token says it.
"""

from __future__ import annotations

from services.chassis.callers import Proxies
from services.chassis.calls import Method
from services.chassis.context import Context
from services.chassis.interceptors.base import CallInterceptor, Observer
from services.chassis.interceptors.current import current_call


class CallerInterceptor(CallInterceptor):
    """
    Let a gateway say who calls, and nobody else.

    Args:
        proxies: who may.
    """

    def __init__(self, proxies: Proxies) -> None:
        self._observer = _Callers(proxies)

    def observe(self, _method: Method) -> Observer:
        """
        The same for all methods.
        """
        return self._observer


class _Callers:
    __slots__ = ("_proxies",)

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    def begin(self, _context: Context) -> None:
        # Asked only when somebody wants to know, which few calls do.
        if (call := current_call()) is not None:
            call.proxies = self._proxies

    def end(self, _context: Context, _state: None) -> None:
        return None

    async def fail(self, _context: Context, _state: None, _error: BaseException) -> None:
        return None
