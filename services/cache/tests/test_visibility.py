"""
What a decision costs a cached read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelyard.contracts import permissions
from modelyard.registry.v1 import models_pb2
from services.cache.read_through.policies import policies
from services.cache.read_through.visibility import Visibility
from services.chassis.access.identity import Identity
from services.chassis.access.policies import Bindings, Policies
from services.chassis.access.roles import Role

GET = "/modelyard.registry.v1.ModelService/GetModel"
ANN = Identity("ann", frozenset(), float("inf"))


def test_a_request_is_parsed_once() -> None:
    """
    The namespaces of a request are found when it is read first: later reads, by whomever and after whatever change of a
    policy, parse nothing.
    """
    parsed = list[bytes]()

    class Request:
        @staticmethod
        def FromString(request: bytes) -> Any:
            parsed.append(request)
            return models_pb2.GetModelRequest.FromString(request)

    known = Policies(clock=lambda: 0.0)
    known.apply({"cats": Bindings({"user:ann": Role.READER})}, complete=True)
    known.heard(1, 0.0)
    counting: Any = Request
    policy = replace(next(each for each in policies() if each.path == GET), request=counting)
    visibility = Visibility(policy, permissions()[GET], known)
    request = models_pb2.GetModelRequest(name="namespaces/cats/models/m").SerializeToString()
    seen = visibility.of(ANN, request)
    assert visibility.of(Identity("bob", frozenset(), float("inf")), request).key != seen.key
    known.apply({"cats": Bindings(private=True)})
    known.heard(2, 0.5)
    assert visibility.of(ANN, request).key != seen.key
    assert len(parsed) == 1
