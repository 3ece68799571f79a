"""
Errors of the gateway itself, in the form of the services' errors: google.rpc.Status with a reason.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.chassis.interceptors.status import DOMAIN

_UNAUTHENTICATED, _PERMISSION_DENIED = 16, 7
#: What came as JSON: the transcoder has put its path aside, or has not seen it yet.
_AS_JSON: Final = {
    "or_filter": {
        "filters": [
            {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True}}},
            {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": "/v1/"}}}},
        ]
    }
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    The error response for one kind of rejected request.

    Args:
        status: the HTTP status that identifies it: 401, 403, or another that is mapped to one of them.
        reason: of the ErrorInfo.
        message: of the error.
        also: further filters that identify it.
        scope: the missing scope.
        becomes: the HTTP status of the response if it differs.
    """

    status: int
    reason: str
    message: str
    also: Sequence[Mapping[str, object]] = ()
    scope: str = ""
    becomes: int | None = None

    def mappers(self) -> list[dict[str, object]]:
        """
        The mappers of local_reply_config: first for JSON, then for gRPC.
        """
        comparison = {"op": "EQ", "value": {"default_value": self.status, "runtime_key": "none"}}
        this = [{"status_code_filter": {"comparison": comparison}}, *self.also]
        header = {"key": "grpc-status-details-bin", "value": details(self._code, self._info, self.message)}
        return [
            {
                "filter": {"and_filter": {"filters": [*this, _AS_JSON]}},
                "status": self.becomes,
                "body": {"json_format": self._as_json()},
                "headers": [],
            },
            {
                "filter": {"and_filter": {"filters": this}} if len(this) > 1 else this[0],
                "status": self.becomes,
                # To callers of gRPC this is the message.
                "body": {"text_format_source": {"inline_string": self.message}},
                "headers": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
            },
        ]

    @property
    def _code(self) -> int:
        return _UNAUTHENTICATED if (self.becomes or self.status) == 401 else _PERMISSION_DENIED

    @property
    def _info(self) -> error_details_pb2.ErrorInfo:
        metadata = {"scope": self.scope} if self.scope else {}
        return error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata)

    def _as_json(self) -> dict[str, object]:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        info = {"@type": kind, "reason": self.reason, "domain": DOMAIN, "metadata": dict(self._info.metadata)}
        return {"code": self._code, "message": self.message, "details": [info]}


def details(code: int, info: error_details_pb2.ErrorInfo, message: str) -> str:
    """
    A google.rpc.Status as the header `grpc-status-details-bin` has it.
    """
    packed = any_pb2.Any()
    packed.Pack(info)
    whole = status_pb2.Status(code=code, message=message, details=[packed])
    return base64.b64encode(whole.SerializeToString()).decode().rstrip("=")
