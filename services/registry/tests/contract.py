"""
The registry's contract, read from its descriptors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from modelyard.cache.v1 import policy_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import (
    aliases_pb2,
    audit_pb2,
    cards_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)
from modelyard.registry.v1 import (
    changes_pb2 as registry_changes_pb2,
)
from services.registry.tests.server import Registry

_FILES = (
    namespaces_pb2,
    models_pb2,
    versions_pb2,
    aliases_pb2,
    evaluations_pb2,
    cards_pb2,
    deployments_pb2,
    audit_pb2,
    imports_pb2,
    registry_changes_pb2,
)


def methods() -> Iterator[MethodDescriptor]:
    """
    Every method that the registry serves.
    """
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def request_class(method: MethodDescriptor) -> type[Message]:
    """
    The class of a method's requests.
    """
    return message_factory.GetMessageClass(method.input_type)


def call(registry: Registry, method: MethodDescriptor, request: Any) -> Any:
    """
    The call of a method over the registry's channel.
    """
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds = {
        (False, False): registry.channel.unary_unary,
        (False, True): registry.channel.unary_stream,
        (True, True): registry.channel.stream_stream,
    }
    make: Any = kinds[method.client_streaming, method.server_streaming]
    answer = message_factory.GetMessageClass(method.output_type)
    return make(
        path, request_serializer=lambda each: each.SerializeToString(), response_deserializer=answer.FromString
    )(request)


def tags(method: MethodDescriptor, request: Message) -> list[str]:
    """
    The tags of an answer, made from the policy of its method as the cache makes them; none when it is never cached.
    """
    found = []
    for template in method.GetOptions().Extensions[policy_pb2.policy].tags:
        match = re.search(r"\{(\w+)\}", template)
        values = getattr(request, match[1]) if match else [""]
        each = [values] if isinstance(values, str) else values
        found += [re.sub(r"\{\w+\}", value, template) for value in each]
    return found


def touches(change: changes_pb2.Change, tag: str) -> bool:
    """
    Whether a change makes answers with a tag stale.
    """
    if change.resource == tag or change.resource.startswith(f"{tag}/"):
        return True
    return change.subtree and tag.startswith(f"{change.resource}/")
