"""
What the current caller may read, for calls whose responses are filtered.
"""

from __future__ import annotations

from services.chassis.access.policies import EVERYTHING, Policies, Readable
from services.chassis.interceptors import identity
from services.chassis.interceptors.permissions import denied, mark_break_glass, tell_visibility
from services.chassis.serving.context import Context


class Visibility:
    """
    The namespaces that callers may read.

    Args:
        policies: of all namespaces.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def readable(self, context: Context, permission: str) -> Readable:
        """
        The namespaces in which the caller has a permission; and tell caches what the response depends on.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        caller = identity()
        if caller is None:
            return EVERYTHING
        found = self._policies.readable(caller, permission)
        tell_visibility(context, found.digest)
        return found

    def since(self, readable: Readable) -> dict[str, int]:
        """
        From which revision on the caller may read what happened in the namespaces that *readable* names.
        """
        return {name: self._policies.hidden_before(name) for name in sorted(readable.names)}

    async def reach(self, revision: int) -> None:
        """
        Wait until decisions are those of a revision, or later ones.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        if identity() is not None and self._policies.applied < revision:
            await self._policies.reach(revision)

    def sees(self, namespace: str, permission: str, revision: int) -> bool:
        """
        Whether the caller has a permission for what happened in a namespace at a revision.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        caller = identity()
        return caller is None or self._policies.may_tell(caller, permission, namespace, revision)

    def demand(self, namespace: str, permission: str) -> None:
        """
        For what a call may do beside what its contract names a permission for. If only the scope `admin` allows it, the
        audit log says so.

        Raises:
            PermissionDenied: the caller has not the permission in a namespace (PERMISSION_DENIED).
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        caller = identity()
        if caller is None:
            return
        if not self._policies.may(caller, permission, namespace):
            raise denied(permission, namespace)
        if self._policies.breaks_glass(caller, permission, namespace):
            mark_break_glass()
