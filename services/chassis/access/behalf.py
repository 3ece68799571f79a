"""
On whose behalf a service calls another one with its own token, where that matters: what the caller may not read, it
must not reach through the service.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from services.chassis.access.identity import ADMIN, Identity
from services.chassis.access.roles import Role
from services.chassis.serving.context import Context, values_of

#: The caller of the calling service. It counts only beside the token of a service that may say so.
CALLER: Final = "x-modelyard-caller"


def on_behalf_of(caller: Identity | None) -> tuple[tuple[str, str], ...]:
    """
    The metadata that names the caller; none while access control is off.
    """
    if caller is None:
        return ()
    said: dict[str, Any] = {"subject": caller.subject, "groups": sorted(caller.groups), "admin": caller.is_admin}
    if caller.grant is not None:
        namespace, role = caller.grant
        said["grant"] = [namespace, int(role)]
    return ((CALLER, json.dumps(said, separators=(",", ":"))),)


def caller_of(context: Context) -> Identity | None:
    """
    The caller that a service names; None where it calls for itself. The token of the service has to be checked before.

    Raises:
        ValueError: what it says cannot be understood.
    """
    found = values_of(context, CALLER)
    if not found:
        return None
    (value,) = found
    return _caller(value)


# The same object for the same caller: it has the decisions, such as which of thousands of namespaces it may read.
@lru_cache(maxsize=1024)
def _caller(value: str | bytes) -> Identity:
    said = json.loads(value)
    scopes = frozenset({ADMIN}) if said["admin"] is True else frozenset[str]()
    grant = None
    # An earlier release does not say it: its API tokens see what every caller with a token sees.
    if "grant" in said:
        namespace, role = said["grant"]
        grant = str(namespace), Role(role)
    return Identity(str(said["subject"]), scopes, float("inf"), frozenset(map(str, said["groups"])), grant)
