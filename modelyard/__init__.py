"""
Modelyard's client: `modelyard.connect()` for threads, `modelyard.aio.connect()` for asyncio.

Example:
    import modelyard
    from modelyard.registry.v1 import models_pb2

    with modelyard.connect("127.0.0.1:8080") as yard:
        name = "namespaces/default/models/resnet50"
        model = yard.models.GetModel(models_pb2.GetModelRequest(name=name))
"""

from modelyard import aio
from modelyard.client import Client, connect
from modelyard.problems import Problem, Violation, explain
from modelyard.transfer import FileChangedError, IntegrityError, Outgoing, Progress

__all__ = [
    "Client",
    "FileChangedError",
    "IntegrityError",
    "Outgoing",
    "Problem",
    "Progress",
    "Violation",
    "aio",
    "connect",
    "explain",
]
