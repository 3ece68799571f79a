"""
Every route of the doors with every kind of token, through the gateway. A new route is in the matrix by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock
from urllib.parse import urlencode

import pytest

import modelyard
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from modelyard.registry.v1 import namespaces_pb2, policies_pb2
from modelyard.tokens import make_key, mint
from services.doors.app import application
from services.doors.service.doors import Doors
from services.doors.tests.http_client import Answer, ask
from tests.doors.repositories import version

PRIVATE: Final = "doors-private"
#: As long as the other, so that answers can be compared.
ABSENT: Final = "doors-missing"
READ: Final = ("registry.read", "assets.read")
WRITE: Final = ("registry.write", "assets.write")
#: By what the name of a route begins with: routes that give every caller the same answer, and why.
OPEN: Final[Mapping[str, str]] = {
    "hub.write": "nothing can be written: 501",
    "hub.repositories.write": "nothing can be written: 501",
    "hub.validate-yaml": "nothing can be written: 501",
    "hub.lfs": "nothing can be written: 501",
    "hub.xet": "nothing can be written: 501",
    "oci.write": "nothing can be written: 405 or 501",
    "oci.catalog": "there is none: 404",
    "oci.nothing": "there is nothing: 404",
    "mlflow.models.rename": "it cannot be written: 501",
    "mlflow.artifact.write": "it cannot be written: 501",
    "mlflow.multipart": "it cannot be written: 501",
}
#: Routes for which any token is good, whatever its scopes: they read nothing.
ANY_TOKEN: Final = {"hub.whoami", "oci.version", "oci.token", "mlflow.server-info"}
#: Of them, those that need none.
NO_TOKEN: Final = {"oci.token", "mlflow.server-info"}
#: Parameters of a request that all of MLflow's routes together could want.
MLFLOW: Final = {
    "name": "m",
    "new_name": "n",
    "version": "1",
    "alias": "a",
    "key": "k",
    "value": "v",
    "source": "s",
    "stage": "Staging",
    "path": "models/m/versions/1",
}
#: What tells two answers apart that say the same. The gateway closes connections whose request was not read to its end.
_PASSING: Final = {"x-request-id", "date", "server", "x-envoy-upstream-service-time", "connection"}


@dataclass(frozen=True)
class Endpoint:
    """
    A method of a route.

    Args:
        name: of the route, as in metrics.
        method: of HTTP.
        path: the template.
    """

    name: str
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def form(self) -> str:
        """
        The protocol: hub, mlflow or oci.
        """
        return self.name.partition(".")[0]

    @property
    def in_a_namespace(self) -> bool:
        """
        Whether the path names one.
        """
        return "{namespace}" in self.path or "{name:path}" in self.path

    def ask(self, gateway: str, namespace: str, token: str) -> Answer:
        """
        Ask for the model `m` of a namespace.
        """
        values = {"namespace": namespace, "model": "m", "name": f"{namespace}/m", "revision": "v1", "reference": "v1"}
        path = f"{MLFLOW['path']}/a" if "mlflow-artifacts" in self.path else "a"
        values |= {"path": path, "digest": f"sha256:{'0' * 64}"}
        path = re.sub(r"{(\w+)(?::\w+)?}", lambda found: values.get(found[1], "x"), self.path)
        if self.form == "mlflow" and self.method == "GET":
            path += f"?{urlencode(MLFLOW)}"
        body = json.dumps({**MLFLOW, "paths": ["a"]}).encode() if self.method in {"POST", "PUT", "PATCH"} else None
        if self.form == "mlflow" and self.method == "DELETE":
            body = json.dumps(MLFLOW).encode()
        headers = {"content_type": "application/json"} if body else {}
        if self.name == "oci.token" and self.method == "POST":
            # OAuth 2.0: the credentials are in a form.
            body = urlencode({"grant_type": "password", "username": "u", "password": token}).encode()
            return ask(gateway, path, self.method, body, content_type="application/x-www-form-urlencoded")
        return ask(gateway, path, self.method, body, token, **headers)


def endpoints() -> list[Endpoint]:
    """
    Every method of every route.
    """
    app: Any = application(Doors(mock.MagicMock(), mock.MagicMock(), None))
    found = [Endpoint(each.name, verb, each.path) for each in app._app.routes for verb in sorted(each.methods)]
    return list(dict.fromkeys(found))


ENDPOINTS = endpoints()


@dataclass(frozen=True)
class House:
    """
    A suite with access control, a private namespace, and tokens.

    Args:
        tokens: by kind.
    """

    stack: Stack
    tokens: Mapping[str, str]


@pytest.fixture(scope="module")
def house(run_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> House:
    """
    A private namespace of "ann" with a model.
    """
    stack = run_servers.stack("access on", StackSettings(state=Path(), gateway_port=0, access="on"))
    key, foreign = stack.settings.state / "access" / "key.pem", tmp_path_factory.mktemp("foreign") / "key.pem"
    make_key(foreign)
    with modelyard.connect(stack.gateway, mint(key, "ann", (*READ, *WRITE), 600.0)) as ann:
        ann.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=PRIVATE))
        version(ann, PRIVATE, "m", {"a": b"private"})
    owner = policies_pb2.Policy.Binding(role=policies_pb2.Policy.ROLE_OWNER, members=["user:ann"])
    policy = policies_pb2.Policy(name=f"namespaces/{PRIVATE}/policy", bindings=[owner], private=True)
    with modelyard.connect(stack.gateway, mint(key, "root", ("admin",), 600.0)) as root:
        root.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))
    return House(
        stack,
        {
            "no token": "",
            "wrong token": mint(foreign, "ann", (*READ, *WRITE), 600.0),
            "rubbish": "rubbish",
            "no scope": mint(key, "ann", ("cache.read",), 600.0),
            "reader": mint(key, "ann", READ, 600.0),
            "stranger": mint(key, "stranger", READ, 600.0),
        },
    )


def _kind(found: Endpoint) -> str:
    if any(found.name.startswith(each) for each in OPEN):
        return "open"
    return found.name if found.name in ANY_TOKEN else "usual"


@pytest.mark.parametrize("what", ["no token", "wrong token", "rubbish"])
def test_a_token_is_needed(house: House, what: str) -> None:
    """
    Without a token, and with one that is not good, the answer is 401 in the form of the protocol.
    """
    answers = {
        each: each.ask(house.stack.gateway, PRIVATE, house.tokens[what])
        for each in ENDPOINTS
        if _kind(each) != "open" and not (what == "no token" and each.name in NO_TOKEN)
    }
    assert {str(each): answer.status for each, answer in answers.items() if answer.status != 401} == {}
    assert [str(each) for each, answer in answers.items() if not _in_form(each, answer)] == []


def test_a_scope_is_needed(house: House) -> None:
    """
    With a token that has not the scope the answer is 403 in the form of the protocol.
    """
    answers = {
        each: each.ask(house.stack.gateway, PRIVATE, house.tokens["no scope"])
        for each in ENDPOINTS
        if _kind(each) == "usual"
    }
    assert {str(each): answer.status for each, answer in answers.items() if answer.status != 403} == {}
    assert [str(each) for each, answer in answers.items() if not _in_form(each, answer)] == []


def test_readers_are_let_in(house: House) -> None:
    """
    Whoever may read gets what is there: no 401, no 5xx but 501, and 403 only where something would be written.
    """
    wrong = {}
    for each in ENDPOINTS:
        status = each.ask(house.stack.gateway, PRIVATE, house.tokens["reader"]).status
        writes = each.form == "mlflow" and each.method != "GET"
        if status == 401 or (status == 403 and not writes) or (status >= 500 and status != 501):
            wrong[str(each)] = status
    assert wrong == {}


def test_to_strangers_a_private_namespace_is_not_there(house: House) -> None:
    """
    Whoever may not see a namespace gets the answer of a namespace that was never created, to the letter, though it was
    just read by somebody who may.
    """
    gateway, wrong = house.stack.gateway, {}
    for each in (found for found in ENDPOINTS if found.in_a_namespace):
        each.ask(gateway, PRIVATE, house.tokens["reader"])
        there, nowhere = (_told(each, gateway, name, house.tokens["stranger"]) for name in (PRIVATE, ABSENT))
        if there != nowhere:
            wrong[str(each)] = (there, nowhere)
    assert wrong == {}


def test_a_remembered_version_is_for_its_reader(house: House) -> None:
    """
    A version by its commit id, which is remembered for its reader for a while, is not there for a stranger and for a
    token without the scope, which ask right after the reader.
    """
    gateway, tokens = house.stack.gateway, house.tokens
    commit = ask(gateway, f"/api/models/{PRIVATE}/m", token=tokens["reader"]).json["sha"]
    path = f"/{PRIVATE}/m/resolve/{commit}/a"
    for what, status in {"stranger": 404, "no scope": 403, "no token": 401, "wrong token": 401}.items():
        assert ask(gateway, path, "HEAD", token=tokens["reader"]).status == 200
        assert ask(gateway, path, "HEAD", token=tokens[what]).status == status


def test_writes_are_refused_alike() -> None:
    """
    What is open is there, so that a route that is renamed does not leave the matrix unseen.
    """
    names = {each.name for each in ENDPOINTS}
    unused = {each for each in OPEN if not any(name.startswith(each) for name in names)} - {"oci.write", "oci.catalog"}
    assert unused == set()
    assert {"hub.model", "hub.file", "hub.models", "oci.version", "mlflow.server-info"} <= names


def _told(found: Endpoint, gateway: str, namespace: str, token: str) -> tuple[int, dict[str, str], bytes]:
    answer = found.ask(gateway, namespace, token)
    headers = {name: value.replace(namespace, "…") for name, value in answer.headers.items() if name not in _PASSING}
    return answer.status, headers, answer.body.replace(namespace.encode(), b"...")


def _in_form(found: Endpoint, answer: Answer) -> bool:
    """
    Whether an error has the form of the route's protocol. HEAD has no body.
    """
    said = {} if found.method == "HEAD" else answer.json
    if found.form == "hub":
        return "x-error-message" in answer.headers and (found.method == "HEAD" or isinstance(said["error"], str))
    if found.form == "mlflow":
        return said["error_code"] in {"UNAUTHENTICATED", "PERMISSION_DENIED"} and isinstance(said["message"], str)
    asked = answer.status != 401 or "www-authenticate" in answer.headers
    code = {401: "UNAUTHORIZED", 403: "DENIED"}[answer.status]
    return asked and (found.method == "HEAD" or said["errors"][0]["code"] == code)
