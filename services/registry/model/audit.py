"""
The audit log: who did what to which resource, and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.ledger.model.changes import Image


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """
    One entry of the audit log.

    Args:
        before, after: the resource; None where there was none. An integer that a JSON number cannot hold exactly
            (RFC 8259, section 6: beyond 2**53) is text.
        shortened: the images are left out, because the entry is larger than an answer may be.
        break_glass: only the scope `admin` allowed the write.
    """

    revision: int
    time: datetime
    actor: str
    action: str
    resource: str
    request_id: str
    before: Image | None
    after: Image | None
    shortened: bool
    break_glass: bool = False


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """
    Which entries to list; empty or None means no restriction.

    Args:
        prefix: only this resource and what is below it.
        start: from this time on.
        end: before this time.
    """

    prefix: str
    actor: str
    action: str
    start: datetime | None
    end: datetime | None
