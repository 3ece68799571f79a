"""
Which namespaces of the key-value cache the caller in progress may use.
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
    Whether a namespace is there for a caller at all: those of the gateway's callers who may not use it are answered as
    if it were not, and so is whoever may neither read nor write it.

    Raises:
        FailedPrecondition: it is for named callers, and calls need no token here, so that nobody is known
            (NAMESPACE_NEEDS_ACCESS).
    """
    # The gateway says so of every call that it passes on, and of no other; whoever else says it takes from themselves.
    if values_of(context, CLIENT) and not namespace.gateway:
        return False
    if namespace.readers is None and namespace.writers is None:
        return True
    if identity() is None:
        raise FailedPrecondition(
            "NAMESPACE_NEEDS_ACCESS",
            f"{namespace.id} names who may use it, and calls need no token here: set MODELYARD_ACCESS to on",
        )
    return any(_has(namespace, permission) for permission in Permission)


def check(namespace: Namespace, permission: Permission) -> None:
    """
    Raises:
        PermissionDenied: the caller may not do this in a namespace that is there for them (NAMESPACE_DENIED).
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
    return known is not None and users.include(known.subject, known.scopes)
