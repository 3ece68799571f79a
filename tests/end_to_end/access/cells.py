"""
Cells of the access matrix: requests from the contracts, and what has to come of them.

What has to come is computed here from a table of its own: it shares nothing with the code that decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from gateway.openapi.bindings import bindings
from modelyard.contracts import permissions
from services.registry.tests.test_policies import requests

NONE, READER, WRITER, MAINTAINER, OWNER = range(5)
ROLES = ("none", "reader", "writer", "maintainer", "owner")
#: The least role that includes each permission (docs/access.md). A permission that is not here fails the tests.
LEAST = {
    READER: [
        *("namespaces", "models", "versions", "aliases", "cards", "evaluations", "deployments", "changes"),
        *("rules", "promotions"),
    ],
    WRITER: [
        *("models.write", "versions.write", "cards.write", "evaluations.write"),
        *("promotions.write", "promotions.review"),
    ],
    MAINTAINER: [
        "aliases.write",
        "deployments.write",
        "models.delete",
        "versions.delete",
        "policies.read",
        "namespaces.create",
    ],
    OWNER: [
        *("policies.write", "namespaces.update", "namespaces.delete", "models.purge", "audit.read"),
        *("rules.write", "tokens.read", "tokens.write"),
    ],
}
NEEDS = {f"{name}.read" if role == READER else name: role for role, names in LEAST.items() for name in names}

#: Names of one length, so that an answer about one can be compared with an answer about another.
OWN, OTHER, PRIVATE, PUBLIC, MISSING = "matrix-own", "matrix-oth", "matrix-prv", "matrix-pub", "matrix-non"
PLACES = (OWN, OTHER, PRIVATE, PUBLIC, MISSING)
_IDS = {"namespaces": "", "models": "m", "versions": "1", "aliases": "a", "deployments": "d", "metrics": "top1"}


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who calls.

    Args:
        subject: of the token.
        own: its role by the policy of `OWN`.
        above: its role by the registry's policy.
        admin: whether the token has the scope `admin`.
    """

    subject: str
    own: int = NONE
    above: int = NONE
    admin: bool = False

    def role(self, place: str) -> int:
        """
        The role in a namespace.
        """
        if self.admin:
            return OWNER
        above = self.above if place != PRIVATE or self.above == OWNER else NONE
        here = {OWN: self.own, PUBLIC: READER}.get(place, NONE)
        return max(above, here)


ADMIN = Caller("root", admin=True)
CALLERS = (
    *(Caller(name, own=role) for role, name in enumerate(ROLES)),
    *(Caller(f"above-{name}", above=role) for role, name in enumerate(ROLES) if role),
    ADMIN,
)
#: Who asks where. A role by the registry's policy counts in all namespaces alike, but for private ones.
PAIRS = [(caller, place) for caller in CALLERS for place in PLACES if not caller.above or place not in (OWN, PUBLIC)]


def path_of(method: MethodDescriptor) -> str:
    """
    The method's path on the wire.
    """
    return f"/{method.containing_service.full_name}/{method.name}"


def templates(method: MethodDescriptor) -> list[str]:
    """
    The request's fields that say of which namespaces it is; none when it is of none.
    """
    return [each.of.strip("{}") for each in permissions()[path_of(method)] if each.of and not each.filtered]


def needed(method: MethodDescriptor) -> int:
    """
    The least role that may call a method.
    """
    return max(NEEDS[each.name] for each in permissions()[path_of(method)])


def expected(method: MethodDescriptor, caller: Caller, place: str) -> str:
    """
    What has to come of a call: "served" (what an administrator gets), "denied", or "missing" (what the same caller gets
    for a namespace that does not exist).
    """
    role, least = caller.role(place), needed(method)
    if place == MISSING:
        # Who may do nothing anywhere learns nothing; who may read everywhere is told what is lacking.
        return "denied" if NONE < (OWNER if caller.admin else caller.above) < least else "served"
    if role == NONE:
        return "missing"
    return "served" if role >= least else "denied"


def request(method: MethodDescriptor, namespace: str) -> Message:
    """
    A request of a method about a namespace, which leaves everything as it is or can be repeated.

    Names come from the contract's paths, so that a new RPC has a request, too; where that would be rejected before
    anything is looked up, the rest comes from the tests of the registry.
    """
    found: Any = message_factory.GetMessageClass(method.input_type)()
    if (known := requests(namespace).get(method.name)) is not None:
        found.MergeFrom(known)
    for binding in bindings(method)[:1]:
        for segment in binding.segments:
            _fill(found, segment.field.split("."), _name(segment.pattern, namespace))
    for template in templates(method)[:1]:
        _fill(found, template.split("."), f"namespaces/{namespace}")
    for message in [found, *(value for field, value in found.ListFields() if _is_resource(field))]:
        # What would change something is rejected after access has been decided.
        if "etag" in message.DESCRIPTOR.fields_by_name:
            message.etag = "another"
    return found  # type: ignore[no-any-return]


def mentions(method: MethodDescriptor, namespace: str, other: str) -> Iterator[tuple[str, Message]]:
    """
    Requests about a namespace in which one more field names something in another one, each with the field's path.
    """
    fields = [path for path, _, _ in _names(request(method, namespace), "")]
    first = templates(method)[0]
    fields += [each for each in templates(method)[1:] if each not in fields]
    for path in fields:
        if path == first:
            continue
        found = request(method, namespace)
        for each, message, field in _names(found, ""):
            if each == path:
                value = getattr(message, field)
                named = value if isinstance(value, str) else value[0]
                named = named.replace(f"namespaces/{namespace}", f"namespaces/{other}", 1)
                if isinstance(value, str):
                    setattr(message, field, named)
                else:
                    value[:] = [named]
                break
        else:
            _fill(found, path.split("."), f"namespaces/{other}/models/m/versions/1")
        yield path, found


def _is_resource(field: Any) -> bool:
    return bool(field.message_type is not None and not field.is_repeated)


def _names(message: Message, above: str) -> Iterator[tuple[str, Message, str]]:
    for field, value in message.ListFields():
        path = f"{above}{field.name}"
        if field.type == field.TYPE_STRING:
            if any(each.startswith("namespaces/") for each in ([value] if isinstance(value, str) else value)):
                yield path, message, field.name
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            each: Sequence[Any] = value if field.is_repeated else [value]
            for one in each:
                yield from _names(one, f"{path}.")


def _name(pattern: str, namespace: str) -> str:
    """
    A name of the form that a path has: "namespaces/*/models/*/versions/*".
    """
    parts = pattern.split("/")
    for index, part in enumerate(parts):
        if part == "*":
            parts[index] = namespace if parts[index - 1] == "namespaces" else _IDS.get(parts[index - 1], "1")
    return "/".join(parts)


def _fill(message: Any, path: list[str], value: str) -> None:
    """
    Set a field that is empty.
    """
    *above, name = path
    for each in above:
        message = getattr(message, each)
        if not isinstance(message, Message):
            message = message[0] if len(message) else message.add()
    present = getattr(message, name)
    if isinstance(present, str):
        if not present:
            setattr(message, name, value)
    elif not len(present):
        present.append(value)
