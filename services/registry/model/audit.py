"""
The audit: who did what to which resource when.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """
    One line of the audit.

    Args:
        before, after: the resource as JSON text; None where there was none.
        shortened: the images are left out, because the entry is larger than an answer may be.
    """

    revision: int
    time: datetime
    actor: str
    action: str
    resource: str
    request_id: str
    before: str | None
    after: str | None
    shortened: bool


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """
    Which entries to list; what is empty or None does not count.

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
