# ruff: noqa: N818 - the names are those of the statuses they become, as every gRPC user knows them
"""
The errors that models, stores and servicers raise.

Each class is one gRPC status code; *reason* identifies the documented error of the method for programs, the message is
for people. This module does not depend on gRPC: `interceptors/errors.py` translates the errors for every service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


class ModelyardError(Exception):
    """
    An error that is returned to the caller.

    Args:
        reason: what went wrong, for programs: UPPER_SNAKE, as documented with the RPC ("MODEL_DEPLOYED").
        message: what went wrong and what to do about it, for people. It leaves the service: no secrets, no SQL.
        metadata: facts that a program may want beside the reason, such as {"limit": "1000"}.
        retry_after: seconds after which the same call may succeed, where that is known.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class _ResourceError(ModelyardError):
    """
    An error about one named resource.

    Args:
        reason: as documented with the RPC ("MODEL_NOT_FOUND").
        resource: the full name of the resource, "namespaces/a/models/m".
        message: replaces the default message.
    """

    usual: ClassVar[str] = "{resource}"

    def __init__(
        self, reason: str, resource: str, message: str = "", *, metadata: Mapping[str, str] | None = None
    ) -> None:
        message = message or self.usual.format(resource=resource)
        super().__init__(reason, message, metadata={"resource": resource, **(metadata or {})})
        self.resource = resource


class NotFound(_ResourceError):
    """
    There is no such resource (or the caller may not know of it).
    """

    code = "NOT_FOUND"
    usual = "{resource} does not exist"


class AlreadyExists(_ResourceError):
    """
    The resource to create already exists.
    """

    code = "ALREADY_EXISTS"
    usual = "{resource} exists already"


class FailedPrecondition(ModelyardError):
    """
    The system is not in the state that the call needs; retrying alone does not help.
    """

    code = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True)
class UnmetCondition:
    """
    A condition that does not hold.

    Args:
        type: for programs: UPPER_SNAKE, as documented with the RPC ("APPROVALS").
        subject: what demands it: the full name of a resource.
        description: what is missing.
    """

    type: str
    subject: str
    description: str


class ConditionsUnmet(FailedPrecondition):
    """
    Conditions that somebody has set up do not hold.

    Args:
        reason, message, metadata: as for every error.
        conditions: each that does not hold; at least one.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        conditions: Iterable[UnmetCondition],
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata=metadata)
        self.conditions = tuple(conditions)


class Aborted(ModelyardError):
    """
    A concurrent change came first (the etag differs): read again, then retry the whole operation.
    """

    code = "ABORTED"


class OutOfRange(ModelyardError):
    """
    A valid request past the end of the data, such as an offset beyond an asset.
    """

    code = "OUT_OF_RANGE"


class ResourceExhausted(ModelyardError):
    """
    A quota, a size limit or a rate is used up.
    """

    code = "RESOURCE_EXHAUSTED"


class Unavailable(ModelyardError):
    """
    A dependency of the call is unavailable: the same call may succeed later. Never the result of client input.
    """

    code = "UNAVAILABLE"


class DeadlineExceeded(ModelyardError):
    """
    The call took longer than it may.
    """

    code = "DEADLINE_EXCEEDED"


class Unauthenticated(ModelyardError):
    """
    The call carries no valid identity.
    """

    code = "UNAUTHENTICATED"


class PermissionDenied(ModelyardError):
    """
    The caller is known and may not do this.
    """

    code = "PERMISSION_DENIED"


class Unimplemented(ModelyardError):
    """
    The contract declares the method, but this server does not implement it.
    """

    code = "UNIMPLEMENTED"


class DataLoss(ModelyardError):
    """
    Stored data is lost or does not match its checksum. A mismatch in what a client sends is INVALID_ARGUMENT.
    """

    code = "DATA_LOSS"


class Internal(ModelyardError):
    """
    A server error: a broken invariant. Any exception that is not in this file becomes one; its text is not sent to the
    caller.
    """

    code = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """
    A violation in one field of a request.

    Args:
        field: the path in the request, "model.display_name", "requests[2].name".
        description: the rule, such as "must be at most 256 characters".
    """

    field: str
    description: str


class InvalidArgument(ModelyardError):
    """
    The request is wrong whatever the state of the system.

    Args:
        violations: every field that is wrong; at least one.
        reason: when the RPC documents one; "INVALID_FIELDS" otherwise.
        metadata: as for every error.
    """

    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        violations: Iterable[FieldViolation],
        *,
        reason: str = "INVALID_FIELDS",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations)
        # A violation of the whole request has no field.
        each = (f"{v.field}: {v.description}" if v.field else v.description for v in self.violations)
        super().__init__(reason, "; ".join(each), metadata=metadata)

    @classmethod
    def of(
        cls,
        field: str,
        description: str,
        *,
        reason: str = "INVALID_FIELDS",
        metadata: Mapping[str, str] | None = None,
    ) -> InvalidArgument:
        """
        The error for a single wrong field.
        """
        return cls([FieldViolation(field, description)], reason=reason, metadata=metadata)


class Violations:
    """
    Collects the violations of a request, so that the caller gets all of them at once.

    Example:
        wrong = Violations()
        if len(draft.display_name) > 256:
            wrong.add("model.display_name", "must be at most 256 characters")
        wrong.raise_if_any()
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """
        Add a violation of *field*.
        """
        self._found.append(FieldViolation(field, description))

    def extend(self, violations: Iterable[FieldViolation], *, under: str = "") -> None:
        """
        Add the violations of a part of the request.

        Args:
            violations: for example those of an InvalidArgument that was caught.
            under: the path of the part, put before each field ("evaluations[3]").
        """
        for violation in violations:
            field = f"{under}.{violation.field}" if under and violation.field else under or violation.field
            self._found.append(FieldViolation(field, violation.description))

    def __len__(self) -> int:
        return len(self._found)

    def raise_if_any(self, *, reason: str = "INVALID_FIELDS") -> None:
        """
        Raises:
            InvalidArgument: there are violations.
        """
        if self._found:
            raise InvalidArgument(self._found, reason=reason)
