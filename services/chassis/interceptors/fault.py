"""
Fault injection for drills: delays of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from services.chassis.serving.calls import Kind, Method
from services.chassis.serving.context import Context


class FaultInterceptor:
    """
    Delay the unary calls of some methods.

    Args:
        delays: seconds by the name of a method.
    """

    def __init__(self, delays: Mapping[str, float]) -> None:
        self._delays = delays

    def around(self, method: Method, proceed: Any) -> Any:
        """
        *proceed*, later; at once for a method that is not named.
        """
        seconds = self._delays.get(method.name)
        if seconds is None or method.kind is not Kind.UNARY_UNARY:
            return proceed

        async def late(request: Any, context: Context) -> Any:
            await asyncio.sleep(seconds)
            return await proceed(request, context)

        return late
