"""
The cache's settings. Only `__main__` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis.settings import (
    Address,
    CommonSettings,
    Secret,
    addresses,
    integer,
    seconds,
    secret,
    setting,
    url,
)

_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings(CommonSettings):
    """
    Where the origins and Valkey are, how much is kept and for how long.
    """

    registry: tuple[Address, ...] = setting(
        "MODELYARD_REGISTRY_TARGET", addresses(), help="the registry's workers, as host:port with commas between them"
    )
    cdn: tuple[Address, ...] = setting(
        "MODELYARD_CDN_TARGET", addresses(), help="the asset service's workers, as host:port with commas between them"
    )
    valkey_url: str = setting("MODELYARD_VALKEY_URL", url("redis", "rediss"), help="redis://host:port/database")
    valkey_password: Secret | None = secret(
        "MODELYARD_VALKEY_PASSWORD_FILE", default=None, help="Valkey's password; unset when it asks for none"
    )
    valkey_timeout: float = setting(
        "MODELYARD_VALKEY_TIMEOUT_SECONDS",
        seconds(0.001, 10),
        default=0.05,
        help="how long a command may take before it counts as a miss",
    )
    near_bytes: int = setting(
        "MODELYARD_CACHE_NEAR_BYTES",
        integer(0, 1 << 40),
        default=256 << 20,
        help="how much each worker keeps in its own memory",
    )
    most_value_bytes: int = setting(
        "MODELYARD_CACHE_MOST_VALUE_BYTES", integer(0, 1 << 30), default=1 << 20, help="larger answers are not kept"
    )
    stream_bound: float = setting(
        "MODELYARD_CACHE_STREAM_BOUND_SECONDS",
        seconds(0.5, 60),
        default=2.0,
        help="how long after the last word of the change stream kept answers are still served",
    )
    ttl_models: float = setting(
        "MODELYARD_CACHE_TTL_MODELS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="models"
    )
    ttl_searches: float = setting(
        "MODELYARD_CACHE_TTL_SEARCHES_SECONDS", seconds(0, 86400 * 30), default=300.0, help="searches and leaderboards"
    )
    ttl_cards: float = setting(
        "MODELYARD_CACHE_TTL_CARDS_SECONDS", seconds(0, 86400 * 30), default=2 * _HOUR, help="model cards"
    )
    ttl_deployments: float = setting(
        "MODELYARD_CACHE_TTL_DEPLOYMENTS_SECONDS", seconds(0, 86400 * 30), default=60.0, help="deployments"
    )
    ttl_assets: float = setting(
        "MODELYARD_CACHE_TTL_ASSETS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="what is known of assets"
    )

    def ttl(self) -> dict[str, float]:
        """
        Seconds that an answer is kept, by the class that its policy names.
        """
        return {
            "models": self.ttl_models,
            "searches": self.ttl_searches,
            "cards": self.ttl_cards,
            "deployments": self.ttl_deployments,
            "assets": self.ttl_assets,
        }

    def password(self) -> str | None:
        """
        Valkey's password.
        """
        return self.valkey_password.reveal() if self.valkey_password else None

    def registry_targets(self) -> list[str]:
        """
        The registry's workers, as grpc takes them.
        """
        return [str(one) for one in self.registry]

    def cdn_targets(self) -> list[str]:
        """
        The asset service's workers, as grpc takes them.
        """
        return [str(one) for one in self.cdn]
