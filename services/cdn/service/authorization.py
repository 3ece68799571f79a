"""
Envoy's question whether a caller may have the bytes of an asset or of a static file, which it then fetches from S3
itself: `envoy.service.auth.v3.Authorization`.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from services.cdn.model.names import parse_name
from services.cdn.model.static_files import StaticName
from services.cdn.service.rights import Rights
from services.cdn.store.delivery.static_files import StaticFileStore
from services.cdn.store.records import Records
from services.chassis.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from services.chassis.serving.context import Context

SERVICE: Final = "envoy.service.auth.v3.Authorization"
METHOD: Final = "Check"
PATH: Final = f"/{SERVICE}/{METHOD}"
#: The scope of the call, which Envoy makes with the client's token.
SCOPE: Final = "assets.read"
_ALLOWED: Final = b""
# CheckResponse {status {code: NOT_FOUND} denied_response {status {code: 404}}}, and those of 401 and 403.
_DENIED: Final = b"\x0a\x02\x08\x05\x12\x05\x0a\x03\x08\x94\x03"
_UNAUTHENTICATED: Final = b"\x0a\x02\x08\x10\x12\x05\x0a\x03\x08\x91\x03"
_FORBIDDEN: Final = b"\x0a\x02\x08\x07\x12\x05\x0a\x03\x08\x93\x03"


class Authorization:
    """
    Decides about requests for bytes.

    Args:
        rights: who may see which asset.
        records: of assets.
        static_files: the store of static files.
    """

    def __init__(self, rights: Rights, records: Records, static_files: StaticFileStore) -> None:
        self._rights, self._records, self._static_files = rights, records, static_files

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """
        The methods of the service.
        """
        parse = _Request.FromString
        return {METHOD: grpc.unary_unary_rpc_method_handler(self.check, request_deserializer=parse)}

    async def check(self, request: Any, context: Context) -> bytes:
        """
        Allow a request if the caller may see what is at its path. What it may not see is not there: 404.

        Raises:
            Unavailable: the policies may be out of date (POLICY_STALE): Envoy answers 503.
        """
        viewer = self._rights.viewer()
        path = unquote(request.attributes.request.http.path.partition("?")[0]).removeprefix("/")
        try:
            if path.startswith("assets/"):
                await self._rights.found(context, viewer, self._records.get(parse_name(path), viewer))
            else:
                name = StaticName.parse(path)
                await self._rights.found(context, viewer, self._static_files.get(name, viewer))
        except (InvalidArgument, NotFound):
            return _DENIED
        return _ALLOWED


def rejected(error: Unauthenticated | PermissionDenied) -> bytes:
    """
    The answer about a request whose token is not accepted (401) or lacks the scope (403): an error of the call would
    mean to Envoy that nothing has been decided.
    """
    return _UNAUTHENTICATED if isinstance(error, Unauthenticated) else _FORBIDDEN


def _request() -> type[Message]:
    """
    CheckRequest, with the one field of it that is read, attributes.request.http.path. The numbers are those of
    envoy/service/auth/v3/attribute_context.proto.
    """
    package = "modelyard.cdn.gateway"
    file = descriptor_pb2.FileDescriptorProto(name="modelyard/cdn/gateway.proto", package=package, syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    fields = (
        ("CheckRequest", "attributes", 1, "AttributeContext"),
        ("AttributeContext", "request", 4, "Request"),
        ("Request", "http", 2, "HttpRequest"),
        ("HttpRequest", "path", 4, ""),
    )
    for message, name, number, of in fields:
        file.message_type.add(name=message).field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE if of else field.TYPE_STRING,
            type_name=f".{package}.{of}" if of else None,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.CheckRequest"))


_Request: Final[Any] = _request()
