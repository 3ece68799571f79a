"""
What every process serves beside its own: health and reflection.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from services.chassis.serving.reflection import V1, V1ALPHA
from services.chassis.tests.behaviour.client import SERVICE, failure

_SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health(channel: grpc.aio.Channel, service: str) -> None:
    """
    The process lives, and the service can work: asked once, or watched.
    """
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await health.Check(request, timeout=10)).status == _SERVING
    watch = health.Watch(request, timeout=10)
    assert (await watch.read()).status == _SERVING
    watch.cancel()


async def test_health_of_another(channel: grpc.aio.Channel) -> None:
    """
    A service that is not served here is NOT_FOUND when asked for.
    """
    health = health_pb2_grpc.HealthStub(channel)
    error = await failure(health.Check(health_pb2.HealthCheckRequest(service="modelyard.x.v1.X"), timeout=10))
    assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_reflection(channel: grpc.aio.Channel, version: str) -> None:
    """
    Tools learn what is served, and how to call it, on one stream.
    """
    method: Any = channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    stream = method(timeout=10)
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await stream.read()
    assert {SERVICE, V1, V1ALPHA} <= {each.name for each in listed.list_services_response.service}
    await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
    (file, *_) = (await stream.read()).file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(file).package == SERVICE.rpartition(".")[0]
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK
