"""
The error details of a failed call.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

#: The metadata with a serialised google.rpc.Status.
DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """
    One invalid field of the request, and its rule.
    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Unmet:
    """
    One condition that does not hold: its type, what demands it, and what is missing.
    """

    type: str
    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class Problem:
    """
    Why a call failed.

    Args:
        code: the status.
        message: for people.
        reason: for programs, as documented with the RPC ("MODEL_NOT_FOUND"); empty when the server gave none.
        metadata: facts beside the reason, such as {"resource": "namespaces/default/models/m"}.
        violations: the invalid fields, if the status is INVALID_ARGUMENT.
        retry_after: seconds after which the same call may succeed; None if the server does not say.
        request_id: id of the call in the server's logs; empty if it gave none.
        conditions: those that do not hold, if the status is FAILED_PRECONDITION and the reason ALIAS_PROTECTED.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] | None = None
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    request_id: str = ""
    conditions: tuple[Unmet, ...] = ()

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.code.name}{reason}: {self.message}"


def explain(error: grpc.RpcError) -> Problem:
    """
    The details of a failed call.

    Args:
        error: the error that a method of the client raised.

    Example:
        try:
            yard.models.GetModel(request)
        except grpc.RpcError as error:
            if modelyard.explain(error).reason == "MODEL_NOT_FOUND": ...
    """
    # Errors that a client raises are also calls, which grpc's types do not express.
    call: Any = error
    trailers = dict(call.trailing_metadata() or ())
    status = status_pb2.Status()
    details = trailers.get(DETAILS)
    if isinstance(details, bytes):
        status.ParseFromString(details)
    info, wrong, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    unmet = error_details_pb2.PreconditionFailure()
    for detail in status.details:
        for known in (info, wrong, retry, unmet):
            detail.Unpack(known)
    return Problem(
        code=call.code(),
        message=call.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple(Violation(each.field, each.description) for each in wrong.field_violations),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        request_id=str(trailers.get("x-request-id", "")),
        conditions=tuple(Unmet(each.type, each.subject, each.description) for each in unmet.violations),
    )


def error_info(details: bytes) -> error_details_pb2.ErrorInfo:
    """
    The ErrorInfo in the `DETAILS` of a call; empty if there is none.
    """
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    # A proxy may have altered it.
    with contextlib.suppress(DecodeError):
        status.ParseFromString(details)
    for detail in status.details:
        detail.Unpack(info)
    return info
