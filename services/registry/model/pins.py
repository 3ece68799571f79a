"""
Pins keep a version's assets from garbage collection, from the claim until the release (docs/adr/0017).
"""

from __future__ import annotations

from dataclasses import dataclass

# A pin is requested within so many seconds after its claim, or never.
PIN_SECONDS = 30
# No release is final before so many seconds: by then no earlier pin request can still arrive.
REST_SECONDS = 120


@dataclass(frozen=True, slots=True)
class PinRelease:
    """
    Pins that must be released.

    Args:
        id: of its row.
        owner: whose pins are released; the full name of a version.
        request_id: makes the release idempotent in the asset service.
    """

    id: int
    owner: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The right to pin the artifacts of a version, until another request claims it or it expires.

    Args:
        id: of its row.
        releases: pending ones of the same owner: to be done before anything is pinned.
    """

    id: int
    releases: tuple[PinRelease, ...]
