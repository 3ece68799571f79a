"""
Whose uploads are, and whom their bounds are counted for.
"""

from __future__ import annotations

from services.cdn.model import Caller
from services.chassis.interceptors import client, identity

_MOST = 300


def caller() -> Caller:
    """
    Who makes the call in progress: the subject of the token, which this process has verified. Without access control
    nobody is known, and bounds are counted for the client's address.
    """
    known = identity()
    if known is not None and known.subject:
        return Caller(known.subject, f"subject {known.subject}"[:_MOST])
    return Caller("", f"address {client()}"[:_MOST])
