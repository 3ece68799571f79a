"""
Bad requests of every kind: they are rejected as client errors, and other clients are not affected.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import urllib.request
import uuid

import pytest

import modelyard
from embedded.stack import Stack
from modelyard.registry.v1 import models_pb2
from tests.drills.abuse.bad_requests import DEFAULT, GROUPS, KINDS, MODELS, Ending, send
from tests.drills.abuse.test_abuse import other_clients_succeed

#: Of each kind: more than the five consecutive errors after which Envoy ejects a host by default.
TIMES = 6
#: Kinds that are sent at once, between two checks of another client.
_AT_ONCE = 8


@pytest.mark.parametrize("group", GROUPS)
def test_bad_requests_are_client_errors(stack: Stack, group: str) -> None:
    """
    Several of each kind at once get a client error, no server error; no host is ejected, and another client's calls,
    meanwhile and after every few kinds, all succeed: reads and writes, over gRPC and as JSON.
    """
    port, wrong = int(stack.gateway.rpartition(":")[2]), {}
    # Without the client's own retries, which would hide failures.
    with (
        other_clients_succeed(stack.gateway),
        modelyard.connect(stack.gateway, options=[("grpc.enable_retries", 0)]) as yard,
    ):
        kinds = iter(GROUPS[group])
        while names := list(itertools.islice(kinds, _AT_ONCE)):
            for name, endings in asyncio.run(_send_all(names, port)).items():
                if accepted := {ending for ending in endings if not ending.rejected}:
                    wrong[name] = accepted
            _reads_and_writes(yard, stack.gateway)
    assert not wrong
    assert _ejections(stack) == 0


async def _send_all(names: list[str], port: int) -> dict[str, list[Ending]]:
    found = await asyncio.gather(*(send(KINDS[name], port, TIMES) for name in names))
    return dict(zip(names, found, strict=True))


def _reads_and_writes(yard: modelyard.Client, gateway: str) -> None:
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex
    made = yard.models.CreateModel(
        models_pb2.CreateModelRequest(parent=DEFAULT, model_id=mine, model=models_pb2.Model())
    )
    assert yard.models.GetModel(models_pb2.GetModelRequest(name=made.name)).name == made.name
    with urllib.request.urlopen(f"http://{gateway}{MODELS}/{mine}", timeout=10) as answer:
        assert json.load(answer)["name"] == made.name
    given = {"content-type": "application/json"}
    post = urllib.request.Request(f"http://{gateway}{MODELS}?model_id={other}", b"{}", given)
    with urllib.request.urlopen(post, timeout=10) as answer:  # noqa: S310 - on loopback
        assert json.load(answer)["name"].endswith(other)


def _ejections(stack: Stack) -> int:
    with urllib.request.urlopen(stack.gateway_metrics, timeout=10) as answer:  # noqa: S310 - on loopback
        text = answer.read().decode()
    found = re.findall(r"^envoy_cluster_outlier_detection_ejections_enforced_total\{.*\} (\d+)$", text, re.MULTILINE)
    assert found
    return sum(map(int, found))
