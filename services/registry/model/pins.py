"""
Pins: what keeps a version's bytes, from when they are claimed until they are taken back (docs/adr/0017).
"""

from __future__ import annotations

from dataclasses import dataclass

# Pins are asked for within so many seconds after they were claimed, or never.
PIN_SECONDS = 30
# Nothing is taken back for good before so many seconds: by then no pin that was asked for earlier can still arrive.
REST_SECONDS = 120


@dataclass(frozen=True, slots=True)
class PinRelease:
    """
    Pins that have to be taken back.

    Args:
        id: of its row.
        owner: all of whose pins; the full name of a version.
        request_id: under which the asset service does it once.
    """

    id: int
    owner: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The right to pin the artifacts of a version, until somebody else claims it or it is due.

    Args:
        id: of its row.
        releases: of the same owner, from before: to be paid before anything is pinned.
    """

    id: int
    releases: tuple[PinRelease, ...]
