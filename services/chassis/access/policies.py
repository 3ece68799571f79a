"""
The policies of all namespaces in memory, and the decisions that they give: see docs/adr/0047.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Final

from services.chassis.access.api_tokens import ApiTokens, LiveToken
from services.chassis.access.identity import Identity
from services.chassis.access.roles import PERMISSIONS, Role
from services.chassis.errors import Unavailable

#: The key of the registry's own policy, among the ids of namespaces.
REGISTRY: Final = ""
#: The key of a namespace that cannot exist.
NOWHERE: Final = "-"
_MOST_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Bindings:
    """
    What one policy says.

    Args:
        roles: the highest role of each member.
        private: of the registry's policy, only owners apply.
        hidden_before: the revision that the namespace was created at, when that is known: what happened before, in
            another one of the same name, is for the owners in the registry's policy. Known in the registry only, which
            alone tells the past.
    """

    roles: Mapping[str, Role] = field(default_factory=dict)
    private: bool = False
    hidden_before: int = 0

    def role(self, members: Iterable[str]) -> Role:
        """
        The role of a caller by this policy alone.

        Args:
            members: that the caller is.
        """
        roles = self.roles
        return max((roles[member] for member in members if member in roles), default=Role.NONE)


@dataclass(frozen=True)
class Readable:
    """
    The namespaces that a caller may read.

    Args:
        others: whether it may read all but *names*; otherwise it may read those.
        names: ids of namespaces.
    """

    others: bool
    names: frozenset[str]

    def __contains__(self, namespace: str) -> bool:
        return (namespace in self.names) is not self.others

    @cached_property
    def ordered(self) -> tuple[str, ...]:
        """
        The names in order. Like the digest, it is remembered: there may be thousands.
        """
        return tuple(sorted(self.names))

    @cached_property
    def digest(self) -> str:
        """
        What stands for the set in keys of caches.
        """
        names = "\n".join(self.ordered).encode()
        return f"{'-' if self.others else '+'}{hashlib.sha256(names).hexdigest()[:32]}"

    @property
    def everything(self) -> bool:
        """
        Whether it may read every namespace.
        """
        return self.others and not self.names


#: While access control is off, and with break-glass access.
EVERYTHING: Final = Readable(others=True, names=frozenset())


class Policies:
    """
    All policies and API tokens, as of a revision. Decisions are remembered with the identity until a policy changes.

    Args:
        bound: maximum age in seconds; beyond it, nothing is decided.
        clock: in seconds, for tests.

    Attributes:
        applied: all policies are those of this revision, or newer.
        tokens: the live API tokens, of the same revision.
    """

    def __init__(self, *, bound: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.applied = 0
        self.tokens = ApiTokens()
        self._bound = bound
        self._clock = clock
        self._heard = float("-inf")
        self._news = asyncio.Event()
        self._found: dict[str, Bindings] = {}
        self._version = 0

    def apply(
        self,
        changed: Mapping[str, Bindings | None],
        tokens: Mapping[str, Sequence[LiveToken]] = MappingProxyType({}),
        *,
        complete: bool = False,
    ) -> None:
        """
        Take changed policies and API tokens.

        Args:
            changed: by the ids of their namespaces, `REGISTRY` for the registry's; None for one that is gone with its
                namespace.
            tokens: all live ones of namespaces whose tokens may have changed.
            complete: these are all policies and tokens.
        """
        self.tokens.replace(tokens, complete=complete)
        if not changed and not complete:
            return
        if complete:
            self._found.clear()
        for namespace, bindings in changed.items():
            if bindings is None:
                self._found.pop(namespace, None)
            else:
                self._found[namespace] = bindings
        self._version += 1

    def heard(self, applied: int, at: float) -> None:
        """
        Record that the policies are those of revision *applied*.

        Args:
            at: a time at which no newer revision had been committed; the age counts from it.
        """
        if applied > self.applied or at > self._heard:
            self.applied = max(self.applied, applied)
            self._heard = max(self._heard, at)
            self._news.set()
            self._news = asyncio.Event()

    async def reach(self, revision: int) -> None:
        """
        Wait until the policies are those of a revision, or it is certain that it does not exist: all that was committed
        before the call is known.

        Raises:
            Unavailable: neither within the bound (POLICY_STALE).
        """
        began = self._clock()
        if not await self._until(lambda: self.applied >= revision or self._heard >= began, self._bound):
            raise _stale()

    async def settle(self, token_hash: bytes, within: float) -> bool:
        """
        Wait until an API token is known, or all that was committed before this call is.

        Args:
            token_hash: of the token.
            within: seconds to wait at most.

        Returns:
            Whether it is certain that there is such a token, or that there is none.
        """
        now = self._clock()
        return await self._until(lambda: self.tokens.find(token_hash) is not None or self._heard >= now, within)

    async def _until(self, reached: Callable[[], bool], within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not reached():
                    await self._news.wait()
        return reached()

    def reset(self, applied: int) -> None:
        """
        Record that the revisions are those of another database from now on.
        """
        self.applied = applied

    @property
    def age(self) -> float:
        """
        Seconds since the time up to which all policies are known. Infinite at first.
        """
        return self._clock() - self._heard

    def check_current(self) -> None:
        """
        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        if self._clock() - self._heard > self._bound:
            raise _stale()

    def role(self, identity: Identity, namespace: str) -> Role:
        """
        The role of a caller in a namespace, whether or not that exists; `REGISTRY` for the registry itself.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        known = self._decisions(identity)
        role = known.roles.get(namespace)
        if role is None:
            if len(known.roles) >= _MOST_REMEMBERED:
                known.roles.clear()
            role = known.roles[namespace] = self._role(identity, known, namespace)
        return role

    def may(self, identity: Identity, permission: str, namespace: str) -> bool:
        """
        Whether a caller has a permission in a namespace; `REGISTRY` for the registry itself.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        return self.role(identity, namespace) >= PERMISSIONS[permission]

    def may_tell(self, identity: Identity, permission: str, namespace: str, revision: int) -> bool:
        """
        Whether a caller has a permission for what happened in a namespace at a revision: it may have happened in
        another one of the same name, which was deleted.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        if not self.may(identity, permission, namespace):
            return False
        if revision >= self.hidden_before(namespace) or identity.is_follower:
            return True
        return self.role(identity, REGISTRY) >= Role.OWNER

    def hidden_before(self, namespace: str) -> int:
        """
        See `Bindings`.
        """
        return self._found.get(namespace, _NONE).hidden_before

    def breaks_glass(self, identity: Identity, permission: str, namespace: str) -> bool:
        """
        Whether a caller has a permission by its scope `admin` alone.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        if not identity.is_admin:
            return False
        known = self._decisions(identity)
        if known.plain is None:
            known.plain = identity.without_admin()
        return self.role(known.plain, namespace) < PERMISSIONS[permission]

    def readable(self, identity: Identity, permission: str = "namespaces.read") -> Readable:
        """
        The namespaces in which a caller has a permission.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        known = self._decisions(identity)
        found = known.readable.get(permission)
        if found is None:
            found = known.readable[permission] = self._readable(identity, known, PERMISSIONS[permission])
        return found

    def _decisions(self, identity: Identity) -> _Decisions:
        self.check_current()
        memo = identity.memo
        if memo is None or memo.policies is not self or memo.version != self._version:
            members = identity.members()
            above = self._found.get(REGISTRY, _NONE).role(members)
            memo = _Decisions(self, self._version, members, above)
            object.__setattr__(identity, "memo", memo)
        return memo  # type: ignore[no-any-return]

    def _role(self, identity: Identity, known: _Decisions, namespace: str) -> Role:
        if identity.is_admin:
            return Role.OWNER
        above = known.above
        own = self._found.get(namespace, _NONE)
        if own.private and above < Role.OWNER:
            above = Role.NONE
        found = max(above, own.role(known.members), Role.READER if identity.is_follower else Role.NONE)
        if identity.grant is None:
            return found
        # What everybody may write is not written by a token that was made for another namespace.
        return identity.grant[1] if namespace == identity.grant[0] else min(found, Role.READER)

    def _readable(self, identity: Identity, known: _Decisions, least: Role) -> Readable:
        if identity.is_admin:
            return EVERYTHING
        others = self._role(identity, known, REGISTRY) >= least
        candidates = self._found.keys() | ({identity.grant[0]} if identity.grant is not None else set())
        names = (
            namespace
            for namespace in candidates
            if namespace != REGISTRY and (self._role(identity, known, namespace) >= least) is not others
        )
        return Readable(others, frozenset(names))


class _Decisions:
    """
    The decisions about one caller.

    Args:
        policies, version: that it was decided by.
        members: of policies, that the caller is.
        above: its role by the registry's policy.
    """

    __slots__ = ("above", "members", "plain", "policies", "readable", "roles", "version")

    def __init__(self, policies: Policies, version: int, members: Sequence[str], above: Role) -> None:
        self.members = members
        self.above = above
        self.policies = policies
        self.version = version
        self.roles: dict[str, Role] = {}
        self.readable: dict[str, Readable] = {}
        self.plain: Identity | None = None  # the caller without break-glass access


def _stale() -> Unavailable:
    message = "who may do this cannot be decided: the policies may be out of date"
    return Unavailable("POLICY_STALE", message, retry_after=1.0)


_NONE = Bindings()
