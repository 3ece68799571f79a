"""
The remaining time of the call in progress, for outgoing calls and queries made on its behalf.

This module does not depend on gRPC, so that stores may import it.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from services.chassis.errors import DeadlineExceeded

if TYPE_CHECKING:
    from services.chassis.serving.context import Context

FOREVER = float("inf")

_ends: ContextVar[float] = ContextVar("modelyard_call_ends", default=FOREVER)
ends_at = _ends.set  # in terms of time.monotonic(); for the deadline interceptor


def remaining() -> float | None:
    """
    Seconds until the deadline of the call in progress; None outside of calls and for streams without a deadline.
    """
    ends = _ends.get()
    return None if ends == FOREVER else max(ends - time.monotonic(), 0.0)


def outgoing_timeout(context: Context | None = None, *, reserve: float = 0.05, otherwise: float = 30.0) -> float:
    """
    The timeout for a call or a query made on behalf of the call in progress, so that it ends before that call does.

    Args:
        context: of the call in progress, where no deadline interceptor ran; usually left out.
        reserve: seconds reserved for the response; at most a tenth of the remaining time.
        otherwise: the timeout where the call in progress has no deadline.

    Returns:
        Seconds, fewer than remain.

    Raises:
        DeadlineExceeded: no time remains.
    """
    left = remaining()
    if left is None and context is not None:
        left = context.time_remaining()
    if left is None or left == FOREVER:
        return otherwise
    if left <= 0:
        raise exceeded()
    return left - min(reserve, left / 10)


def exceeded() -> DeadlineExceeded:
    """
    The error of a call whose deadline has passed.
    """
    return DeadlineExceeded("DEADLINE_EXCEEDED", "the call took longer than its deadline allows")
