"""
Metadata of a call that the store needs: caller, request id, minimum revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from services.chassis.access.identity import Identity
from services.chassis.errors import Aborted, FailedPrecondition, NotFound

T = TypeVar("T")

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Write:
    """
    The metadata of a mutation.

    Args:
        actor: the verified identity of the caller.
        action: the RPC, "UpdateModel".
        request_id: makes a retry safe; empty when the client does not care.
        trace: the id of the call, for the audit, when there is no request id.
        digest: SHA-256 of the method and the request, to distinguish a retry from another use of the same id.
        dry: check and answer as if it had been done, but write nothing (`validate_only`).
        least: the revision that the caller has seen (`x-min-revision`): if it does not exist, nothing is written.
        identity: of the caller; None while access control is off, and for what the service does on its own.
        break_glass: policies would have refused it: only the caller's scope `admin` allows it.
    """

    actor: str
    action: str
    request_id: str
    trace: str
    digest: bytes
    dry: bool = False
    least: int = 0
    identity: Identity | None = None
    break_glass: bool = False


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """
    A value and the revision that it reflects.
    """

    value: T
    revision: int


class Missing(NotFound):
    """
    Not found, as of a revision. A cache may store this negative result until a later change invalidates it.
    """

    def __init__(self, reason: str, resource: object, revision: int | None = None, *, message: str = "") -> None:
        super().__init__(reason, str(resource), message)
        self.revision = revision


def check_reached(wanted: int, newest: int) -> None:
    """
    Args:
        wanted: the revision that the caller has seen; 0 when it does not say.
        newest: of the primary.

    Raises:
        FailedPrecondition: there is no such revision (REVISION_NOT_REACHED).
    """
    if wanted > newest:
        # The primary answered (lagging replicas were skipped), so that neither waiting nor another server helps: the
        # revision is invented, or it was lost when the database was restored.
        raise FailedPrecondition(
            "REVISION_NOT_REACHED",
            f"there is no revision {wanted}: the newest is {newest}. If it was seen, the database has been set back: "
            f"ask for at most {newest}, and check whether later writes were lost",
            metadata={"revision": str(newest)},
        )


def etag(revision: int) -> str:
    """
    The etag of a resource that was last written at *revision*; empty for one that was never written (`validate_only`).
    """
    return f'"r{revision}"' if revision else ""


def check_etag(resource: object, expected: str, revision: int) -> None:
    """
    Raises:
        Aborted: *expected* is the etag of another state than the one of *revision*.
    """
    if expected and expected != etag(revision):
        raise Aborted(
            "ETAG_MISMATCH",
            f"{resource} has changed since it was read: read it again and retry",
            metadata={"resource": str(resource), "etag": etag(revision)},
        )
