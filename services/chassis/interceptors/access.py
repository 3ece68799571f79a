"""
Who may call what: see docs/adr/0018 and docs/adr/0049.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Final

from services.chassis.access import Access
from services.chassis.access.api_tokens import UnknownTokenError
from services.chassis.access.policy import Check
from services.chassis.access.tokens import Verifier
from services.chassis.errors import PermissionDenied, Unauthenticated
from services.chassis.interceptors.call_context import current_call
from services.chassis.serving.calls import Method
from services.chassis.serving.context import Context, values_of

#: The answer to a caller whose token is not accepted, or lacks the scope.
Rejection = Callable[[Unauthenticated | PermissionDenied], Any]
NO: Final[Mapping[str, Rejection]] = MappingProxyType({})
_MIN_REVISION = "x-min-revision"
_REGISTRY = "/modelyard.registry."


class AccessInterceptor:
    """
    Let through only callers whose token has the scope that the method asks for.

    Args:
        access: what is checked.
        scopes: which one each method needs, by path. A method that is not in it is denied.
        rejections: what a unary method answers to rejected callers in place of an error, by path.
    """

    def __init__(self, access: Access, scopes: Mapping[str, str], rejections: Mapping[str, Rejection] = NO) -> None:
        self._access = access
        self._scopes = scopes
        self._rejections = rejections

    def around(self, method: Method, proceed: Any) -> Any:
        """
        A behaviour of *method*'s kind that checks the caller before *proceed* runs.
        """
        # Other services have revisions of their own.
        revised = method.path.startswith(_REGISTRY)
        guard = _Guard(self._access.check(method.path, self._scopes), self._access.verifier, revised=revised)
        if method.kind.responses_stream:
            return _stream(guard, proceed)
        rejection = self._rejections.get(method.path)
        return _unary(guard, proceed) if rejection is None else _answering(guard, proceed, rejection)


class _Guard:
    """
    The check of one method.

    Args:
        revised: whether revisions that callers have seen are those of the policies.
    """

    __slots__ = ("_check", "_revised", "_verifier")

    def __init__(self, check: Check, verifier: Verifier, *, revised: bool) -> None:
        self._check = check
        self._revised = revised
        self._verifier = verifier

    async def admit(self, context: Context) -> None:
        """
        Let the call in, or raise as `Access.check` does.
        """
        try:
            found = self._check(context)
        except UnknownTokenError as unknown:
            await self._verifier.settle(unknown)
            found = self._check(context)
        if found.grant is not None and self._revised and (seen := _min_revision(context)):
            # The caller may have seen the revision in which the token was revoked.
            await self._verifier.reach(seen)
            found = self._check(context)
        if (call := current_call()) is not None:
            call.identity = found
            call.verifier = self._verifier


def _unary(guard: _Guard, proceed: Callable[[Any, Context], Awaitable[Any]]) -> Any:
    async def call(request: Any, context: Context) -> Any:
        await guard.admit(context)
        return await proceed(request, context)

    return call


def _answering(guard: _Guard, proceed: Callable[[Any, Context], Awaitable[Any]], rejection: Rejection) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            await guard.admit(context)
        except (Unauthenticated, PermissionDenied) as error:
            return rejection(error)
        return await proceed(request, context)

    return call


def _stream(guard: _Guard, proceed: Callable[[Any, Context], AsyncGenerator[Any, None]]) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        await guard.admit(context)
        async with aclosing(proceed(request, context)) as responses:
            async for response in responses:
                yield response

    return call


def _min_revision(context: Context) -> int:
    found = values_of(context, _MIN_REVISION)
    # What is no revision is reported by whoever needs it.
    return int(found[0]) if found and len(found[0]) < 20 and str(found[0]).isdecimal() else 0
