"""
What callers may read of the registry, and which of its answers they share: see docs/adr/0047.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from modelyard.contracts import Permission
from services.cache.read_through.policies import Policy
from services.chassis.access.identity import Identity
from services.chassis.access.policies import Policies
from services.chassis.access.requests import namespaces_by
from services.chassis.access.roles import PERMISSIONS, Role
from services.chassis.errors import InvalidArgument, Unavailable
from services.chassis.interceptors.permissions import HIDDEN, VISIBLE

_READER: Final = Role.READER  # looked up once: that costs as much as the comparison
_MOST_REMEMBERED = 10_000
_MOST_REQUEST = 1024


@dataclass(frozen=True, slots=True)
class View:
    """
    Which of several answers to the same request a caller gets.

    Args:
        key: what the keys of its entries begin with.
        visibility: what the origin has to say of an answer (`x-visibility`); None while access control is off.
        tags: what its entries depend on, in place of what the request names; None for that.
    """

    key: bytes = b""
    visibility: str | None = None
    tags: tuple[str, ...] | None = None


#: While access control is off, and for callers who see everything.
ALIKE: Final = View()
_SEEN: Final = View(b"", VISIBLE)


class AssetVisibility:
    """
    The views of an RPC of the asset service, which alone knows who may see which asset. Callers who may read everything
    share its answers; for others nothing is cached.

    Args:
        policies: of all namespaces.
    """

    #: What the origin says of answers that a warm-up loads.
    warmed: Final = None

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def of(self, caller: Identity, _request: bytes, _minimum: int = 0) -> View | None:
        """
        The view of a caller; None where the origin has to decide.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE).
        """
        return ALIKE if self._policies.readable(caller).everything else None


class Visibility:
    """
    The views of one RPC of the registry.

    Args:
        policy: of the RPC.
        needed: the permissions that it needs; all of them belong to readers.
        policies: of all namespaces.
    """

    #: What the origin says of answers that a warm-up loads.
    warmed: Final = VISIBLE

    def __init__(self, policy: Policy, needed: Sequence[Permission], policies: Policies) -> None:
        above = [each.name for each in needed if PERMISSIONS[each.name] > _READER]
        if above:
            raise ValueError(f"{policy.path} is cached, and needs more than the role reader: {', '.join(above)}")
        self._policy = policy
        self._found = [namespaces_by(each.of) for each in needed if not each.filtered]
        self._filtered = next((each.name for each in needed if each.filtered), None)
        self._policies = policies
        self._namespaces: dict[bytes, tuple[str, ...]] = {}

    def of(self, caller: Identity, request: bytes, minimum: int = 0) -> View:
        """
        The view of a caller.

        Args:
            request: serialized.
            minimum: the revision that the caller has seen: a permission may have been revoked with it.

        Raises:
            InvalidArgument: the request does not parse, or a field does not name a resource.
            Unavailable: the policies may be out of date, or are older than *minimum* (POLICY_STALE).
        """
        if minimum > self._policies.applied:
            raise Unavailable("POLICY_STALE", "the policies are older than the revision that the caller has seen")
        namespaces = self._namespaces.get(request)
        if namespaces is None:
            namespaces = self._parse(request)
        role = self._policies.role
        for namespace in namespaces:
            if role(caller, namespace) < _READER:
                return self._hidden(caller, namespaces)
        if self._filtered is None:
            return _SEEN
        digest = self._policies.readable(caller, self._filtered).digest
        return View(b"set\0" + digest.encode() + b"\0", digest)

    def _hidden(self, caller: Identity, namespaces: Sequence[str]) -> View:
        hidden = [namespace for namespace in namespaces if self._policies.role(caller, namespace) < _READER]
        # Nothing but the policies changes the answer, which is that of namespaces that do not exist.
        tags = ("policy", *(f"namespaces/{namespace}/policy" for namespace in hidden))
        return View(b"hidden\0" + "\0".join(hidden).encode() + b"\0", HIDDEN, tags)

    def _parse(self, request: bytes) -> tuple[str, ...]:
        try:
            decoded = self._policy.request.FromString(request)
        except DecodeError as error:
            raise InvalidArgument.of("", f"the request does not parse: {error}") from None
        namespaces = tuple(dict.fromkeys(namespace for find in self._found for namespace in find(decoded)))
        if len(request) <= _MOST_REQUEST:
            if len(self._namespaces) >= _MOST_REMEMBERED:
                self._namespaces.clear()
            self._namespaces[request] = namespaces
        return namespaces
