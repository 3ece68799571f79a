"""
A service that answers with nothing: what is left of a call is the host and what is done round it.

`python -m bench.empty`, with the settings that every service has. BENCH_UNMEASURED=1 leaves out what counts, times and
logs calls.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelyard.registry.v1 import models_pb2, models_pb2_grpc
from services.chassis.access.callers import Proxies
from services.chassis.interceptors import standard
from services.chassis.observability.call_recorder import Recorder, Recorders
from services.chassis.observability.metrics import CallMetrics, MethodStats
from services.chassis.serving.calls import Method, wrap_handler
from services.chassis.serving.context import Context
from services.chassis.serving.server import Server, collect, main

ADD = models_pb2_grpc.add_ModelServiceServicer_to_server


class EmptyModels(models_pb2_grpc.ModelServiceServicer):
    """
    Answers GetModel with an empty model.
    """

    async def GetModel(self, _request: models_pb2.GetModelRequest, _context: Context) -> models_pb2.Model:
        """
        Nothing.
        """
        return models_pb2.Model()


class Unrecorded(Recorders):
    """
    Gives recorders that do nothing.
    """

    def _make(self, method: Method) -> Recorder:
        return _Nothing(method, MethodStats(), 0.0, Proxies(()))


class _Nothing(Recorder):
    def begin(self) -> None:
        return None

    def end(self, *_args: object, **_more: object) -> None:
        return None


@asynccontextmanager
async def compose(server: Server) -> AsyncIterator[None]:
    """
    Serve nothing for as long as the block lasts.
    """
    server.add(ADD, EmptyModels())  # type: ignore[abstract]
    if os.environ.get("BENCH_UNMEASURED"):
        server.recorders = Unrecorded(CallMetrics())
        interceptors = standard()
        for service, handlers in collect(ADD, EmptyModels()).items():  # type: ignore[abstract]
            for name, handler in handlers.items():
                method = Method.of(service, name, handler)
                server.recorders.of(method)
                server.handlers[method.path] = wrap_handler(handler, method, interceptors)
    yield


if __name__ == "__main__":
    main("bench.empty", compose)
