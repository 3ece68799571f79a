"""
Whose uploads are, and whom their bounds are counted for.
"""

from __future__ import annotations

from services.cdn.model import Caller
from services.chassis.context import Context
from services.chassis.interceptors import identity

_FORWARDED = "x-forwarded-for"


def caller(context: Context) -> Caller:
    """
    Who makes the call in progress: the subject of the token, which this process has verified. Without access control
    nobody is known, and bounds are counted for the address: the last one that the gateway has put down, or the peer's.
    """
    known = identity()
    if known is not None and known.subject:
        return Caller(known.subject, f"subject {known.subject}"[:_MOST])
    return Caller("", f"address {_address(context)}"[:_MOST])


_MOST = 300


def _address(context: Context) -> str:
    forwarded = ""
    for key, value in context.invocation_metadata() or ():
        if key == _FORWARDED and isinstance(value, str):
            forwarded = value.rpartition(",")[2].strip() or forwarded
    return forwarded or context.peer().rpartition(":")[0]
