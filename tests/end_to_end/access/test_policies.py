"""
Access by namespace through the gateway and the cache: a cached response reaches nobody who may not read it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

import modelyard
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import services
from modelyard.registry.v1 import models_pb2, namespaces_pb2, policies_pb2, versions_pb2
from modelyard.tokens import mint
from services.registry.tests.test_policies import requests

SCOPES = ("registry.read", "registry.write")
POLICY = policies_pb2.Policy
CACHED = [
    method.name
    for service in services()
    for method in service.methods
    if method.GetOptions().HasExtension(policy_pb2.policy) and service.full_name.startswith("modelyard.registry.")
]
PATIENCE = 10.0
_PASSING = {"x-request-id", "age", "date", "server", "x-envoy-upstream-service-time", "x-revision"}


@dataclass(frozen=True)
class Team:
    """
    A suite with access control, and the clients of its callers.
    """

    stack: Stack

    def token(self, subject: str, *scopes: str) -> str:
        """
        A token of *subject*, with the usual scopes unless others are given.
        """
        return mint(self.stack.settings.state / "access" / "key.pem", subject, scopes or SCOPES, 600.0)

    def client(self, subject: str, *scopes: str) -> modelyard.Client:
        """
        A client through the gateway.
        """
        return modelyard.connect(self.stack.gateway, self.token(subject, *scopes))

    def set_policy(self, name: str, *, private: bool = False, **roles: str) -> int:
        """
        Set a policy, with members separated by spaces.
        """
        bindings = [
            POLICY.Binding(role=POLICY.Role.Value(f"ROLE_{role.upper()}"), members=members.split())
            for role, members in roles.items()
        ]
        request = policies_pb2.SetPolicyRequest(policy=POLICY(name=name, bindings=bindings, private=private))
        with self.client("root", "admin") as root:
            return root.policies.SetPolicy(request).revision


@pytest.fixture(scope="module")
def team(run_servers: Servers) -> Iterator[Team]:
    """
    The suite, with a private namespace of "ann" that has a model, a version, an alias, a card and a deployment.
    """
    found = Team(run_servers.stack("access on", StackSettings(state=Path(), gateway_port=0, access="on")))
    with found.client("ann") as ann:
        ann.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="policies"))
        ann.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/policies", model_id="m"))
        for _ in range(2):
            version = versions_pb2.CreateVersionRequest(parent="namespaces/policies/models/m")
            made = ann.versions.CreateVersion(version)
            ann.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
        for name in ("MoveAliases", "UpdateCard", "RecordEvaluations", "CreateDeployment"):
            method(ann, name)(requests("policies")[name])
    found.set_policy("namespaces/policies/policy", private=True, owner="user:ann")
    yield found
    found.set_policy("namespaces/policies/policy", owner="user:ann")


def method(client: modelyard.Client, name: str) -> Any:
    """
    The method of a client's stubs with this name.
    """
    return next(getattr(stub, name) for stub in vars(client).values() if hasattr(stub, name))


def told(client: modelyard.Client, name: str, request: Message) -> tuple[Any, dict[str, str]]:
    """
    A response, or the status; and the trailing metadata.
    """
    try:
        answer, call = method(client, name).with_call(request)
        trailing: Any = call.trailing_metadata()
    except grpc.RpcError as error:
        problem = modelyard.explain(error)
        answer = (problem.code, problem.reason, problem.message)
        trailing = error.trailing_metadata()
    return answer, {key: str(value) for key, value in trailing or () if key not in _PASSING}


def until(condition: Callable[[], bool]) -> float:
    """
    Wait for a condition; the seconds that it took.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.002)
    return time.monotonic() - began


def anonymous(said: Any, namespace: str) -> str:
    """
    What was said, without the namespace's id, and details without their bytes.
    """
    return repr(said).replace(namespace, "NAMESPACE").replace(f"\\n{chr(len(namespace))}", "")


@pytest.mark.parametrize("name", [name for name in CACHED if name != "ListNamespaces"])
def test_a_cached_response_is_for_its_readers(team: Team, name: str) -> None:
    """
    What is cached for a reader tells a stranger nothing, not even when the stranger's own response is cached.
    """
    request, missing = requests("policies")[name], requests("xxxxxxxx")[name]
    with team.client("ann") as ann, team.client("stranger") as stranger:
        until(lambda: told(ann, name, request)[1].get("x-cache") == "near")
        for _ in range(3):
            there, nowhere = told(stranger, name, request), told(stranger, name, missing)
            assert there[0][:2] == nowhere[0][:2]
            assert anonymous(there[0], "policies") == anonymous(nowhere[0], "xxxxxxxx")
            assert there[1].get("x-cache") == nowhere[1].get("x-cache")
            assert there[1].keys() == nowhere[1].keys()
            assert "x-visibility" not in there[1]
        assert told(ann, name, request)[1]["x-cache"] == "near"


def test_lists_of_namespaces(team: Team) -> None:
    """
    Callers with different rights get different cached lists.
    """
    request = namespaces_pb2.ListNamespacesRequest(page_size=1000)
    with team.client("ann") as ann, team.client("stranger") as stranger:
        for client, sees in ((ann, True), (stranger, False)):
            until(lambda client=client: told(client, "ListNamespaces", request)[1].get("x-cache") == "near")  # type: ignore[misc]
            names = {each.name for each in told(client, "ListNamespaces", request)[0].namespaces}
            assert ("namespaces/policies" in names) is sees


def test_a_revocation_reaches_the_cache(team: Team) -> None:
    """
    Who may read no longer gets no cached response either; and who may again gets one.
    """
    request = requests("policies")["GetModel"]
    with team.client("bob") as bob:
        for _ in range(3):
            team.set_policy("namespaces/policies/policy", private=True, owner="user:ann", reader="user:bob")
            until(lambda: told(bob, "GetModel", request)[1].get("x-cache") == "near")
            team.set_policy("namespaces/policies/policy", private=True, owner="user:ann")
            until(lambda: isinstance(told(bob, "GetModel", request)[0], tuple))


def test_json(team: Team) -> None:
    """
    The same rules hold for JSON.
    """
    connection = http.client.HTTPConnection(team.stack.gateway, timeout=10)
    found = {}
    for subject in ("ann", "stranger"):
        connection.request(
            "GET", "/v1/namespaces/policies/models/m", headers={"authorization": f"Bearer {team.token(subject)}"}
        )
        response = connection.getresponse()
        found[subject] = (response.status, json.loads(response.read()))
    assert found["ann"][0] == 200
    assert (found["stranger"][0], found["stranger"][1]["details"][0]["reason"]) == (404, "MODEL_NOT_FOUND")
