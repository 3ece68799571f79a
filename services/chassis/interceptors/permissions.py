"""
Who may do what where: see docs/adr/0047.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from services.chassis.access.hidden import as_asked, hide
from services.chassis.access.identity import Identity
from services.chassis.access.policies import NOWHERE, REGISTRY, Policies
from services.chassis.access.policy import HEALTH, REFLECTION
from services.chassis.access.requests import namespaces_by, rename
from services.chassis.access.roles import PERMISSIONS, Role
from services.chassis.errors import InvalidArgument, ModelyardError, PermissionDenied
from services.chassis.interceptors.call_context import current_call, identity
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context, values_of

#: Trailing metadata of reads: what the answer depends on beside the request, so that a cache can tell whether it has
#: decided the same. Only for calls that carry a token of a service that follows the policies, in `FOLLOWER`: it tells
#: what exists.
VISIBILITY: Final = "x-visibility"
FOLLOWER: Final = "x-modelyard-follower"
VISIBLE: Final = "visible"
HIDDEN: Final = "hidden"
_MIN_REVISION = "x-min-revision"
_MOST_DIGITS = 20


class Needed(Protocol):
    """
    A permission as a contract names it.
    """

    @property
    def name(self) -> str: ...
    @property
    def of(self) -> str: ...
    @property
    def filtered(self) -> bool: ...


class PermissionInterceptor:
    """
    Let through only callers who have the permissions that the method needs.

    For a caller that may not read a namespace, the namespace does not exist: the call is made for one that cannot
    exist, and its id is replaced in the error. So the response is that of a missing namespace, whatever the method.

    Args:
        policies: of all namespaces.
        needed: the permissions of each method, by path. A method that is not in it is denied.
    """

    def __init__(self, policies: Policies, needed: Mapping[str, Sequence[Needed]]) -> None:
        self._policies = policies
        self._needed = needed

    def around(self, method: Method, proceed: Any) -> Any:
        """
        A behaviour of *method*'s kind that checks the caller before *proceed* runs.
        """
        if method.path.startswith((HEALTH, REFLECTION)):
            return proceed
        needed = self._needed.get(method.path)
        if needed is None:
            return _denying(proceed, method)
        guard = _Guard(self._policies, tuple(each for each in needed if not each.filtered))
        wrap = {
            (False, False): _unary,
            (False, True): _response_stream,
            (True, True): _both_streams,
        }[method.kind.requests_stream, method.kind.responses_stream]
        return wrap(guard, proceed)


class _Guard:
    """
    The permissions of one method.

    Attributes:
        decides: whether there are any that the service does not decide about item by item.
    """

    def __init__(self, policies: Policies, needed: Sequence[Needed]) -> None:
        self._policies = policies
        self._needed = [(each.name, PERMISSIONS[each.name], namespaces_by(each.of)) for each in needed]
        self.decides = bool(needed)

    def hidden(self, request: Any, caller: Identity) -> dict[str, str]:
        """
        The namespaces of a request that do not exist for the caller, with ids that cannot exist.

        Raises:
            PermissionDenied: the caller may read a namespace, and not do this there (PERMISSION_DENIED).
            Unavailable: the policies may be out of date (POLICY_STALE).
            InvalidArgument: a field does not name a resource.
        """
        hidden: dict[str, str] = {}
        for permission, least, namespaces in self._needed:
            for namespace in namespaces(request):
                role = self._policies.role(caller, namespace)
                if role < Role.READER and namespace != REGISTRY:
                    hidden[namespace] = f"n{secrets.token_hex(16)}"
                    # What the caller may do in a namespace that does not exist is decided by the registry's policy.
                    role = self._policies.role(caller, NOWHERE)
                    if role < Role.READER:
                        continue
                if role < least:
                    raise denied(permission, namespace)
                if caller.is_admin and self._policies.breaks_glass(caller, permission, namespace):
                    mark_break_glass()
        return hidden

    def ahead(self, context: Context) -> int:
        """
        The revision that the caller has seen, if the policies are older; otherwise 0. Wait for it with `reach`.
        """
        # What is no revision is reported by whoever needs it.
        sent = [str(value) for value in values_of(context, _MIN_REVISION)]
        seen = max((int(value) for value in sent if value.isdecimal() and len(value) < _MOST_DIGITS), default=0)
        return seen if seen > self._policies.applied else 0

    async def reach(self, revision: int) -> None:
        """
        Wait until the policies are those of *revision*, if that exists.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        await self._policies.reach(revision)

    def missing(self, request: Any, hidden: Mapping[str, str]) -> Any:
        """
        The request, for namespaces that cannot exist.
        """
        other = type(request)()
        other.CopyFrom(request)
        rename(other, hidden)
        return other


def mark_break_glass() -> None:
    """
    Record in the audit log that only the scope `admin` allows what the current call does.
    """
    call = current_call()
    if call is not None:
        call.break_glass = True


def denied(permission: str, namespace: str) -> PermissionDenied:
    """
    The error of a caller that may read a namespace and not do something there.
    """
    resource = f"namespaces/{namespace}" if namespace else "the registry"
    return PermissionDenied(
        "PERMISSION_DENIED",
        f"this needs the permission {permission} in {resource}: ask one of its owners (docs/access.md)",
        metadata={"permission": permission, "resource": f"namespaces/{namespace}" if namespace else "policy"},
    )


def _unary(guard: _Guard, proceed: Any) -> Any:
    async def call(request: Any, context: Context) -> Any:
        caller = identity()
        if caller is None:
            return await proceed(request, context)
        if revision := guard.ahead(context):
            await guard.reach(revision)
        hidden = guard.hidden(request, caller)
        hide(hidden)
        if guard.decides:
            tell_visibility(context, HIDDEN if hidden else VISIBLE)
        if not hidden:
            return await proceed(request, context)
        try:
            return await proceed(guard.missing(request, hidden), context)
        except ModelyardError as error:
            raise _as_asked(error, hidden) from None

    return call


def _response_stream(guard: _Guard, proceed: Any) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        caller = identity()
        hidden: dict[str, str] = {}
        if caller is not None:
            if revision := guard.ahead(context):
                await guard.reach(revision)
            hidden = guard.hidden(request, caller)
        hide(hidden)
        asked = guard.missing(request, hidden) if hidden else request
        try:
            async with aclosing(proceed(asked, context)) as responses:
                async for response in responses:
                    # The permission may have been revoked since.
                    if caller is not None and guard.hidden(request, caller).keys() != hidden.keys():
                        raise PermissionDenied("PERMISSION_REVOKED", "the permission to read this has been revoked")
                    yield response
        except ModelyardError as error:
            raise _as_asked(error, hidden) from None

    return call


def _both_streams(guard: _Guard, proceed: Any) -> Any:
    async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        caller = identity()
        hidden: dict[str, str] = {}
        if caller is not None and (revision := guard.ahead(context)):
            await guard.reach(revision)

        async def checked() -> AsyncGenerator[Any, None]:
            async for request in requests:
                found = {} if caller is None else guard.hidden(request, caller)
                hidden.update(found)
                hide(hidden)
                yield guard.missing(request, found) if found else request

        try:
            async with aclosing(checked()) as asked, aclosing(proceed(asked, context)) as responses:
                async for response in responses:
                    yield response
        except ModelyardError as error:
            raise _as_asked(error, hidden) from None

    return call


def _denying(proceed: Any, method: Method) -> Any:
    async def unary(request: Any, context: Context) -> Any:
        _check_off(method)
        return await proceed(request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        _check_off(method)
        async with aclosing(proceed(request, context)) as responses:
            async for response in responses:
                yield response

    return stream if method.kind.responses_stream else unary


def _check_off(method: Method) -> None:
    if identity() is not None:
        raise PermissionDenied("PERMISSION_DENIED", f"{method.path} is not open to anybody")


def tell_visibility(context: Context, visibility: str) -> None:
    """
    Tell a cache what the response depends on.
    """
    call = current_call()
    if call is None or call.verifier is None:
        return
    tokens = values_of(context, FOLLOWER)
    if tokens and call.verifier.verify(str(tokens[0])).is_follower:
        context.set_trailing_metadata((*context.trailing_metadata(), (VISIBILITY, visibility)))


def _as_asked(error: ModelyardError, hidden: Mapping[str, str]) -> ModelyardError:
    """
    An error in the terms of the request.
    """
    if not hidden:
        return error
    asked = {other: namespace for namespace, other in hidden.items()}

    def said(text: str) -> str:
        return as_asked(text, asked)

    error.message = said(error.message)
    error.args = (error.message,)
    error.metadata = {key: said(value) for key, value in error.metadata.items()}
    if isinstance(error, InvalidArgument):
        error.violations = tuple(type(each)(each.field, said(each.description)) for each in error.violations)
    if hasattr(error, "resource"):
        error.resource = said(error.resource)
    return error
