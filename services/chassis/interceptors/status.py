"""
From an error to what goes over the wire: a status code, a message, and google.rpc details.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc import status_pb2

from services.chassis.errors import (
    AlreadyExists,
    ConditionsUnmet,
    FieldViolation,
    InvalidArgument,
    ModelyardError,
    NotFound,
    UnmetCondition,
)

DOMAIN = "modelyard.dev"
DETAILS = "grpc-status-details-bin"

# Clients refuse trailers of more than some 8 KiB in all, and then show an error of their own in place of ours.
# The message goes twice (in the details too), the details in base64.
_MOST_MESSAGE = 600
_MOST_TEXT = 256
_MOST_VIOLATION_BYTES = 2000


def status_code(error: ModelyardError) -> grpc.StatusCode:
    """
    The status that *error* stands for.
    """
    return grpc.StatusCode[error.code]


def rich_status(error: ModelyardError) -> status_pb2.Status:
    """
    *error* with its reason, and with all that a client can act on, short enough for trailers.
    """
    status = status_pb2.Status(code=status_code(error).value[0], message=_short(error.message, _MOST_MESSAGE))
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _details(error: ModelyardError) -> Iterable[Message]:
    metadata = {key: _short(value) for key, value in error.metadata.items()}
    yield details_pb.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    if isinstance(error, InvalidArgument):
        yield _bad_request(error.violations)
    if isinstance(error, ConditionsUnmet):
        yield _precondition_failure(error.conditions)
    if isinstance(error, NotFound | AlreadyExists):
        collection = error.resource.split("/")[-2:-1]  # ["models"] of namespaces/a/models/m
        yield details_pb.ResourceInfo(
            resource_type=_short("".join(collection)),
            resource_name=_short(error.resource),
            description=_short(error.message),
        )
    if error.retry_after is not None:
        retry = details_pb.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        yield retry


def _bad_request(violations: tuple[FieldViolation, ...]) -> details_pb.BadRequest:
    request = details_pb.BadRequest()
    for number, violation in enumerate(violations):
        if request.ByteSize() > _MOST_VIOLATION_BYTES:
            request.field_violations.add(field="", description=f"and {len(violations) - number} more")
            break
        request.field_violations.add(field=_short(violation.field), description=_short(violation.description))
    return request


def _precondition_failure(conditions: tuple[UnmetCondition, ...]) -> details_pb.PreconditionFailure:
    failure = details_pb.PreconditionFailure()
    for number, each in enumerate(conditions):
        if failure.ByteSize() > _MOST_VIOLATION_BYTES:
            failure.violations.add(description=f"and {len(conditions) - number} more")
            break
        failure.violations.add(type=each.type, subject=_short(each.subject), description=_short(each.description))
    return failure


def _short(text: str, most: int = _MOST_TEXT) -> str:
    # Counted in bytes: a message is percent-encoded on the wire, so what is not ASCII grows. A lone surrogate, which
    # no protobuf string can hold, becomes a question mark.
    raw = text.encode("utf-8", "replace")
    if len(raw) <= most:
        return raw.decode()
    return raw[: most - 3].decode("utf-8", "ignore") + "…"
