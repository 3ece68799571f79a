"""
Reflection, with which grpcurl and friends learn what is served here: v1, and v1alpha for older tools.

The package grpcio-reflection ships v1alpha only. v1 has the same messages under another package name, so that one
servicer answers both.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as alpha

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


class ReflectionService(reflection.aio.ReflectionServicer):  # type: ignore[misc, name-defined]  # no types there
    """
    The servicer of both versions.

    Args:
        services: the full names of all that is served here, without reflection itself.
    """

    def __init__(self, services: Iterable[str]) -> None:
        _know_v1()
        super().__init__({*services, V1, V1ALPHA})

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        # The base class finds neither methods nor fields, and `grpcurl describe pkg.Service.Method` asks for one.
        return super()._file_containing_symbol(request, _definition(fully_qualified_name))


def add_v1_to_server(servicer: ReflectionService, server: Any) -> None:
    """
    Serve grpc.reflection.v1; as the generated `add_…Servicer_to_server` would, if there were one.
    """
    handlers = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=alpha.ServerReflectionRequest.FromString,
            response_serializer=alpha.ServerReflectionResponse.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1, handlers),))
    server.add_registered_method_handlers(V1, handlers)


add_v1alpha_to_server = reflection_pb2_grpc.add_ServerReflectionServicer_to_server


def _definition(symbol: str) -> str:
    """
    The service or message in which the method or field *symbol* is defined; any other symbol as it is.
    """
    pool = descriptor_pool.Default()
    for find in (pool.FindMethodByName, pool.FindFieldByName):
        with suppress(KeyError):
            find(symbol)
            return symbol.rpartition(".")[0]
    return symbol


def _know_v1() -> None:
    """
    Put the contract of v1 beside that of v1alpha, for those who ask for it.
    """
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(V1)
    except KeyError:
        contract = descriptor_pb2.FileDescriptorProto()
        alpha.DESCRIPTOR.CopyToProto(contract)
        contract.options.Clear()  # v1alpha is deprecated, v1 is not
        text = text_format.MessageToString(contract).replace("v1alpha", "v1")
        pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
