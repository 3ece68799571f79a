# ruff: noqa: N818 - the names are those of the statuses they become, as every gRPC user knows them
"""
The errors that models, stores and servicers raise.

Each class is one gRPC status; its *reason* tells a program which of a method's documented errors it is, its message
tells a person. Nothing here knows gRPC: `interceptors/errors.py` translates, once, for every service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


class ModelyardError(Exception):
    """
    An error that the caller is told about.

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
        message: in place of the usual one.
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
    The resource to create is there already.
    """

    code = "ALREADY_EXISTS"
    usual = "{resource} exists already"


class FailedPrecondition(ModelyardError):
    """
    The system is not in the state that the call needs; retrying alone does not help.
    """

    code = "FAILED_PRECONDITION"


class Aborted(ModelyardError):
    """
    Another change came first (an etag differs): read again, then retry the whole.
    """

    code = "ABORTED"


class OutOfRange(ModelyardError):
    """
    A valid request past the end of what there is, such as an offset beyond an asset.
    """

    code = "OUT_OF_RANGE"


class ResourceExhausted(ModelyardError):
    """
    A quota, a size limit or a rate is used up.
    """

    code = "RESOURCE_EXHAUSTED"


class Unavailable(ModelyardError):
    """
    Something that the call needs is down for now: the same call may succeed later. Never what a client can bring about.
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
    The contract has it, this server does not (yet).
    """

    code = "UNIMPLEMENTED"


class DataLoss(ModelyardError):
    """
    Stored data is lost or does not match its checksum. What a client sends and what it says of it is INVALID_ARGUMENT.
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
    One thing wrong with one field of a request.

    Args:
        field: the path in the request, "model.display_name", "requests[2].name".
        description: what would be right, "must be at most 256 characters".
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
        # What is wrong with the whole has no field.
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
    Collects what is wrong with a request, so that the caller hears of everything at once.

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
        Note that *field* is wrong and what would be right.
        """
        self._found.append(FieldViolation(field, description))

    def extend(self, violations: Iterable[FieldViolation], *, under: str = "") -> None:
        """
        Take over the violations of a part of the request.

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
            InvalidArgument: something was added.
        """
        if self._found:
            raise InvalidArgument(self._found, reason=reason)
