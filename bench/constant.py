"""
A service that answers GetModel with a constant: what a host costs when the service does nothing.

`python -m bench.constant`, with the settings that every service has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf import timestamp_pb2

from modelyard.registry.v1 import models_pb2, models_pb2_grpc
from services.chassis.serving.context import Context
from services.chassis.serving.server import Server, main

# As large as the timm models are, give or take.
_MODEL = models_pb2.Model(
    display_name="convnext base fb in22k ft in1k",
    description="convnext base fb in22k ft in1k: an image classifier of timm, measured on ImageNet at 288 pixels.",
    task="image-classification",
    framework="pytorch",
    labels={"source": "timm", "weights": "convnext_base.fb_in22k_ft_in1k", "architecture": "convnext_base"},
    parameter_count=88_590_000,
    create_time=timestamp_pb2.Timestamp(seconds=1_790_000_000),
    update_time=timestamp_pb2.Timestamp(seconds=1_790_000_000),
    latest_version=1,
    revision=1,
    etag='"r1"',
)


class ConstantModels(models_pb2_grpc.ModelServiceServicer):
    """
    Answers GetModel, with the name that was asked for.
    """

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.Model:
        """
        The constant; copied and serialised for every call, as an answer is.
        """
        answer = models_pb2.Model()
        answer.CopyFrom(_MODEL)
        answer.name = request.name
        context.set_trailing_metadata((("x-revision", "1"),))
        return answer


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve the constant for as long as the block lasts.
    """
    server.add(models_pb2_grpc.add_ModelServiceServicer_to_server, ConstantModels())  # type: ignore[abstract]
    yield


if __name__ == "__main__":
    main("bench.constant", compose)
