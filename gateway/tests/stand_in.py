"""
A service in the registry's place, on either host, whose handlers do what the call's metadata asks for:
`python -m gateway.tests.stand_in`.

* `x-wait`: seconds before the answer; of a stream, before the second message.
* `x-answer`: the status to end with.
* `x-a-bin`: comes back as the model's owner, in hexadecimal digits.

The description of a model says how many seconds its call had left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from embedded import suite
from embedded.parts import Part
from embedded.supervisor import Supervisor
from modelyard.changes.v1 import changes_pb2
from modelyard.registry.v1 import changes_pb2_grpc, models_pb2, models_pb2_grpc
from services.chassis.deadlines import remaining
from services.chassis.serving.context import Context
from services.chassis.serving.server import Server, main

HEALTH = "modelyard.registry.v1.ModelService"


class Models(models_pb2_grpc.ModelServiceServicer):
    """
    A unary read and a unary write.
    """

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        return await _answer(request.name, context)

    async def CreateModel(self, request: models_pb2.CreateModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        return await _answer(request.model_id, context)


class Changes(changes_pb2_grpc.ChangeServiceServicer):
    """
    A stream.
    """

    async def WatchChanges(  # noqa: N802
        self, request: changes_pb2.WatchChangesRequest, context: Context
    ) -> AsyncIterator[changes_pb2.WatchChangesResponse]:
        yield changes_pb2.WatchChangesResponse(heartbeat=changes_pb2.Heartbeat(applied_revision=1))
        await _do(context)
        yield changes_pb2.WatchChangesResponse(heartbeat=changes_pb2.Heartbeat(applied_revision=2))


async def _answer(name: str, context: Context) -> models_pb2.Model:
    left = remaining()
    await _do(context)
    told = dict(context.invocation_metadata() or ())
    binary = told.get("x-a-bin", b"")
    assert isinstance(binary, bytes)
    return models_pb2.Model(name=name, owner=binary.hex(), description="" if left is None else f"{left:.1f}")


async def _do(context: Context) -> None:
    told = dict(context.invocation_metadata() or ())
    await asyncio.sleep(float(told.get("x-wait", 0)))
    if code := told.get("x-answer"):
        await context.abort(grpc.StatusCode[str(code)], "as asked")


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve both for as long as the block lasts.
    """
    server.add(models_pb2_grpc.add_ModelServiceServicer_to_server, Models())  # type: ignore[abstract]
    server.add(changes_pb2_grpc.add_ChangeServiceServicer_to_server, Changes())
    yield


@contextmanager
def served(host: str, state: Path, **environment: str) -> Iterator[int]:
    """
    Serve it in a process of its own, with its log in *state*: the port.

    Args:
        host: envoy or grpcio.
        environment: settings of it.
    """
    service = suite.Service(
        name="registry",
        health=HEALTH,
        needs=(),
        environment=environment,
        workers=1,
        host=host,
        port=suite.ports(1),
        metrics_port=suite.ports(1),
    )
    part = service.part()
    supervisor = Supervisor(state / "log")
    try:
        supervisor.start([_run_as(part)])
        yield service.port
    finally:
        supervisor.stop()


def _run_as(part: Part) -> Part:
    argv = ["gateway.tests.stand_in" if each == "services.registry" else each for each in part.argv]
    return replace(part, argv=argv)


if __name__ == "__main__":
    main("gateway.tests.stand_in", compose)
