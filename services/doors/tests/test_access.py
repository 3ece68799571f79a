"""
Who calls, over the gateway, while access control is on.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import modelyard
from embedded.shared import Servers
from embedded.stack import Stack, StackSettings
from modelyard.registry.v1 import policies_pb2, tokens_pb2
from modelyard.tokens import mint
from services.chassis.access.api_tokens import make
from services.doors.tests.http_client import Answer, ask

SCOPES = ("registry.read", "registry.write", "assets.read", "assets.write", "admin")
WHO = "/api/whoami-v2"


@pytest.fixture(scope="module")
def guarded(run_servers: Servers) -> Stack:
    """
    The suite with access control on.
    """
    return run_servers.stack("access on", StackSettings(state=Path(), gateway_port=0, access="on"))


def jwt(guarded: Stack, subject: str, *scopes: str) -> str:
    """
    A signed token.
    """
    return mint(guarded.settings.state / "access" / "key.pem", subject, scopes, 600.0)


def who(answer: Answer) -> tuple[str, str]:
    """
    The name and the role in an answer.
    """
    assert answer.status == 200, answer.body
    return answer.json["name"], answer.json["auth"]["accessToken"]["role"]


def test_whose_token_it_is(guarded: Stack) -> None:
    """
    Signed tokens and API tokens say who calls and whether it writes in the default namespace, whatever scopes they
    have; a revoked or made-up one gets 401, as does a caller without one.
    """
    assert who(ask(guarded.gateway, WHO, token=jwt(guarded, "ann", *SCOPES))) == ("ann", "write")
    assert who(ask(guarded.gateway, WHO, token=jwt(guarded, "bob", "registry.read"))) == ("bob", "read")
    with modelyard.connect(guarded.gateway, jwt(guarded, "root", *SCOPES)) as root:

        def create(role: int, *scopes: str) -> tokens_pb2.CreateApiTokenResponse:
            token = tokens_pb2.ApiToken(role=policies_pb2.Policy.Role.ValueType(role), scopes=scopes)
            token.expire_time.FromSeconds(int(time.time()) + 600)
            request = tokens_pb2.CreateApiTokenRequest(parent="namespaces/default", api_token=token)
            return root.api_tokens.CreateApiToken(request)

        reader, writer = (create(each) for each in (policies_pb2.Policy.ROLE_READER, policies_pb2.Policy.ROLE_WRITER))
        bytes_only = create(policies_pb2.Policy.ROLE_READER, "assets.read")
        for made, role in ((reader, "read"), (writer, "write"), (bytes_only, "read")):
            name = f"my_{made.api_token.name.rpartition('/')[2]}"
            assert who(ask(guarded.gateway, WHO, token=made.secret)) == (name, role)
        root.api_tokens.RevokeApiToken(tokens_pb2.RevokeApiTokenRequest(name=writer.api_token.name))
        ends = time.monotonic() + 10
        while ask(guarded.gateway, WHO, token=writer.secret).status != 401:
            assert time.monotonic() < ends
            time.sleep(0.02)
    for refused in (make()[1], "my_typo", ""):
        assert ask(guarded.gateway, WHO, token=refused).status == 401
