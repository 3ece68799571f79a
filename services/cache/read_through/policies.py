"""
Cache policies, read from the protos: every RPC with a `modelyard.cache.v1.policy` option (ADR 0004).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message

from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import services
from services.chassis.errors import InvalidArgument

_FIELD = re.compile(r"\{([a-z_.]+)\}")


@dataclass(frozen=True, slots=True)
class Policy:
    """
    The cache policy of one RPC.

    Args:
        service: its full name, `modelyard.registry.v1.ModelService`.
        method: its name, `GetModel`.
        origin: the service behind it, by the package: `registry` or `cdn`.
        kind: the class of its answers, which selects the TTL.
        templates: of the tags of its answers.
        request: the class of its requests.
    """

    service: str
    method: str
    origin: str
    kind: str
    templates: Sequence[str]
    request: type[Message]

    @property
    def path(self) -> str:
        """
        The RPC's path on the wire.
        """
        return f"/{self.service}/{self.method}"

    def tags(self, request: bytes) -> tuple[str, ...]:
        """
        The tags of an answer to *request*: the resources that it depends on.

        Raises:
            InvalidArgument: *request* does not parse.
        """
        try:
            decoded = self.request.FromString(request)
        except DecodeError as error:
            raise InvalidArgument.of("", f"the request does not parse: {error}") from None
        return tuple(dict.fromkeys(tag for template in self.templates for tag in _expand(template, decoded)))


def policies() -> list[Policy]:
    """
    The policies of all RPCs.
    """
    return [_policy(method) for service in services() for method in service.methods if _declares(method)]


def _declares(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().HasExtension(policy_pb2.policy))


def _policy(method: MethodDescriptor) -> Policy:
    option = method.GetOptions().Extensions[policy_pb2.policy]
    service = method.containing_service
    return Policy(
        service=service.full_name,
        method=method.name,
        origin=service.file.package.split(".")[1],
        kind=getattr(option, "class"),  # a reserved word in Python
        templates=tuple(option.tags),
        request=message_factory.GetMessageClass(method.input_type),
    )


def _expand(template: str, request: Message) -> Iterator[str]:
    found = _FIELD.search(template)
    if found is None:
        yield template
        return
    value: object = request
    for part in found[1].split("."):
        value = getattr(value, part)
    for one in [value] if isinstance(value, str) else list(value):  # type: ignore[call-overload]
        yield template[: found.start()] + str(one) + template[found.end() :]
