"""
The gateway: one port for gRPC, gRPC-Web and JSON. Reads while the cache is down: test_own_suite.py.
"""

from __future__ import annotations

import json
import os
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

import modelyard
from embedded.stack import Stack
from modelyard.cdn.v1 import assets_pb2
from modelyard.contracts import public_services
from modelyard.registry.v1 import models_pb2
from services.chassis.tests.behaviour.wire import WINDOW, Reply, Wire, message

NAME = "namespaces/default/models/front-door"


@pytest.fixture(scope="module", autouse=True)
def model(yard: modelyard.Client) -> None:
    parent, _, model_id = NAME.rpartition("/models/")
    request = models_pb2.CreateModelRequest(parent=parent, model_id=model_id, model=models_pb2.Model(owner="me"))
    yard.models.CreateModel(request)


def get(stack: Stack, path: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(f"http://{stack.gateway}{path}", data=data, headers=given)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own gateway
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def as_json(answer: bytes) -> Any:
    return json.loads(answer)


def test_it_says_that_it_is_there(stack: Stack) -> None:
    """
    GET /healthz answers 200 without asking a service.
    """
    assert get(stack, "/healthz") == (200, b"ok\n")


def test_json_reads_a_model(stack: Stack) -> None:
    """
    A unary RPC is served as JSON at the path of its contract.
    """
    status, answer = get(stack, f"/v1/{NAME}")
    assert (status, as_json(answer)["owner"]) == (200, "me")


def test_json_errors_are_statuses_with_details(stack: Stack) -> None:
    """
    An error comes as google.rpc.Status in JSON, with its reason.
    """
    status, answer = get(stack, f"/v1/{NAME}-missing")
    assert (status, as_json(answer)["code"]) == (404, grpc.StatusCode.NOT_FOUND.value[0])
    assert "MODEL_NOT_FOUND" in {detail.get("reason") for detail in as_json(answer)["details"]}


@pytest.mark.parametrize("path", ["/v1/nonsense", "/v1/namespaces/default/nonsense/x"])
def test_an_unknown_path_is_not_found(stack: Stack, path: str) -> None:
    """
    A path that no contract has answers 404, as JSON.
    """
    status, answer = get(stack, path)
    assert (status, as_json(answer)["code"]) == (404, grpc.StatusCode.NOT_FOUND.value[0])


def test_an_unknown_query_parameter_is_refused(stack: Stack) -> None:
    """
    A query parameter that the request has no field for is a mistake, not something to ignore.
    """
    status, answer = get(stack, f"/v1/{NAME}?nonsense=1")
    assert (status, as_json(answer)["code"]) == (400, grpc.StatusCode.INVALID_ARGUMENT.value[0])


def test_grpc_web_reads_a_model(stack: Stack) -> None:
    """
    A browser's framing is served on the same port: a message, then the trailers as a frame.
    """
    request = models_pb2.GetModelRequest(name=NAME).SerializeToString()
    body = b"\0" + struct.pack(">I", len(request)) + request
    path = "/modelyard.registry.v1.ModelService/GetModel"
    status, answer = get(stack, path, body, content_type="application/grpc-web+proto", x_grpc_web="1")
    assert status == 200, answer
    assert len(answer) > 5, answer
    (length,) = struct.unpack(">I", answer[1:5])
    assert models_pb2.Model.FromString(answer[5 : 5 + length]).owner == "me"
    assert b"grpc-status:0" in answer[5 + length :]


@pytest.mark.parametrize("method", ["Pin", "Unpin"])
def test_pins_have_no_route(stack: Stack, yard: modelyard.Client, method: str) -> None:
    """
    While access control is off, too, nobody pins or unpins through the gateway: not over gRPC, gRPC-Web or JSON.
    """
    request = assets_pb2.PinRequest if method == "Pin" else assets_pb2.UnpinRequest
    with pytest.raises(grpc.RpcError) as refused:
        getattr(yard.assets, method)(request(owner="namespaces/default/models/m/versions/1"))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    path, body = f"/modelyard.cdn.v1.AssetService/{method}", struct.pack("!BI", 0, 0)
    assert get(stack, path, body, content_type="application/grpc-web+proto", x_grpc_web="1")[0] == 404
    assert get(stack, path, b"{}", content_type="application/json")[0] == 415
    assert get(stack, f"/v1/assets:{method.lower()}", b"{}", content_type="application/json")[0] == 404


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_what_the_gateway_serves(stack: Stack, version: str) -> None:
    """
    Tools such as `grpcurl list` see every service that clients may call, whichever process serves it.
    """
    wanted = set(public_services())
    assert {each.rpartition(".")[0] for each in wanted} == {
        "modelyard.cache.v1",
        "modelyard.cdn.v1",
        "modelyard.registry.v1",
    }
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    with grpc.insecure_channel(stack.gateway) as channel:
        ask = channel.stream_stream(
            path,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        listed = {each.name for each in answer.list_services_response.service}
        assert wanted <= listed
        assert {each.partition(".")[0] for each in listed - wanted} == {"grpc"}
        for name in wanted:
            (found,) = ask(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]))
            assert found.HasField("file_descriptor_response"), name


def test_an_uploaded_asset_is_served_over_http(stack: Stack, yard: modelyard.Client, tmp_path: Path) -> None:
    """
    What was uploaded with gRPC is downloaded with GET, under its digest.
    """
    file = tmp_path / "weights.bin"
    file.write_bytes(b"through the front door")
    asset = yard.upload_file(file)
    assert get(stack, f"/assets/{asset.sha256}") == (200, b"through the front door")


async def test_window_used_up(yard: modelyard.Client, stack: Stack, tmp_path: Path) -> None:
    """
    An answer that takes the client's window to its last byte is followed by its status all the same.
    """

    async def download(on: Wire, size: int) -> Reply:
        path = tmp_path / str(size)
        path.write_bytes(os.urandom(size))
        asset = yard.upload_file(path)
        request = assets_pb2.DownloadRequest(name=asset.name).SerializeToString()
        return await on.call("/modelyard.cdn.v1.AssetService/Download", message(request))

    port, size = int(stack.gateway.rpartition(":")[2]), 60_000
    async with Wire.open(port) as wide, Wire.open(port, window=0) as narrow:
        size += WINDOW - len((await download(wide, size)).body)
        reply = await download(narrow, size)
    assert (len(reply.body), reply.status) == (WINDOW, 0)
