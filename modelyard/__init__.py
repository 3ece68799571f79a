"""
Modelyard's client: `modelyard.connect()` for threads, `modelyard.aio.connect()` for asyncio.

Example:
    import modelyard
    from modelyard.registry.v1 import models_pb2

    with modelyard.connect("127.0.0.1:8080") as yard:
        name = "namespaces/default/models/resnet50"
        model = yard.models.GetModel(models_pb2.GetModelRequest(name=name))
"""

from typing import TYPE_CHECKING

from modelyard import aio
from modelyard._deprecated import aliases
from modelyard.client import Client, connect
from modelyard.error_details import Problem, Unmet, Violation, explain
from modelyard.login.errors import LoginError
from modelyard.transfer import FileChangedError, IntegrityError, ProgressCallback, UploadSource

__all__ = [
    "Client",
    "FileChangedError",
    "IntegrityError",
    "LoginError",
    "Problem",
    "ProgressCallback",
    "Unmet",
    "UploadSource",
    "Violation",
    "aio",
    "connect",
    "explain",
]

if not TYPE_CHECKING:
    __getattr__ = aliases(
        __name__,
        {
            "Outgoing": ("modelyard.UploadSource", UploadSource),
            "Progress": ("modelyard.ProgressCallback", ProgressCallback),
        },
    )
