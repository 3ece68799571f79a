"""
Which namespaces of the key-value cache the current caller may use.
"""

from __future__ import annotations

from services.cache.model.namespaces import Namespace
from services.cache.model.permissions import Permission
from services.chassis.access.callers import CLIENT
from services.chassis.errors import FailedPrecondition, PermissionDenied
from services.chassis.interceptors import identity
from services.chassis.serving.context import Context, values_of


def visible(namespace: Namespace, context: Context) -> bool:
    """
    Whether a namespace exists as far as the caller can tell: it is hidden from callers through the gateway if it is
    internal, and from callers that may neither read nor write it.

    Raises:
        FailedPrecondition: it is restricted to certain callers, while access control is off
            (NAMESPACE_NEEDS_ACCESS).
    """
    # The gateway sets this header on every call that it forwards; a direct caller that sends it only loses access.
    if values_of(context, CLIENT) and not namespace.gateway:
        return False
    if namespace.readers is None and namespace.writers is None:
        return True
    if identity() is None:
        raise FailedPrecondition(
            "NAMESPACE_NEEDS_ACCESS",
            f"{namespace.id} is restricted to certain callers, and access control is off: set MODELYARD_ACCESS to on",
        )
    return any(_has(namespace, permission) for permission in Permission)


def check(namespace: Namespace, permission: Permission) -> None:
    """
    Raises:
        PermissionDenied: the caller lacks this permission for a namespace that it can see (NAMESPACE_DENIED).
    """
    if not _has(namespace, permission):
        raise PermissionDenied(
            "NAMESPACE_DENIED",
            f"the token may not {permission.value} {namespace.id}",
            metadata={"namespace": namespace.id},
        )


def _has(namespace: Namespace, permission: Permission) -> bool:
    users = namespace.readers if permission is Permission.READ else namespace.writers
    if users is None:
        return True
    known = identity()
    return known is not None and users.include(known.subject, known.scopes, known.groups)
