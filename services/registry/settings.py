"""
The registry's settings. Only `__main__` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis.settings import Address, addresses, seconds, setting
from services.ledger.settings import LedgerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings(LedgerSettings):
    """
    The registry's settings.
    """

    purge_after: float = setting(
        "MODELYARD_PURGE_AFTER_SECONDS",
        seconds(0, 10 * 365 * 86400),
        default=30 * 86400.0,
        help="how long a deleted model can be undeleted before it is purged",
    )
    cdn: tuple[Address, ...] = setting(
        "MODELYARD_CDN_TARGET", addresses(), help="the asset service's workers, as host:port with commas between them"
    )
