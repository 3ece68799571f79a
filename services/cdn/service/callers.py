"""
Identity of the caller, for ownership and limits of uploads.
"""

from __future__ import annotations

from services.cdn.model import Caller
from services.chassis.interceptors import client, identity

_MOST = 300


def caller() -> Caller:
    """
    The caller of the current call: the subject of its verified token. Without access control, limits are per client
    address.
    """
    known = identity()
    if known is not None and known.subject:
        return Caller(known.subject, f"subject {known.subject}"[:_MOST])
    return Caller("", f"address {client()}"[:_MOST])
