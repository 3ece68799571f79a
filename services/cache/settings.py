"""
The cache's settings. Only `__main__` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.cache.model.namespaces import Namespace, parse
from services.cache.store.compression import Method
from services.chassis.settings import (
    Address,
    CommonSettings,
    Kind,
    Secret,
    addresses,
    boolean,
    choice,
    integer,
    seconds,
    secret,
    setting,
    text,
    url,
)

_HOUR = 3600.0
_NAMESPACES = Path(__file__).with_name("namespaces.toml")


def _namespaces(path: str) -> tuple[Namespace, ...]:
    try:
        return tuple(parse(Path(path).read_text(encoding="utf-8")).values())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file cannot be read: {error}") from None


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
    valkey_cluster: bool = setting(
        "MODELYARD_VALKEY_CLUSTER", boolean(), default=False, help="whether the URL is of a node of a cluster"
    )
    prefix: str = setting(
        "MODELYARD_CACHE_PREFIX",
        text(),
        default="modelyard",
        help="what the keys in Valkey begin with: one for each suite that uses the same Valkey",
    )
    compression: Method = setting(
        "MODELYARD_CACHE_COMPRESSION",
        choice(Method),
        default=Method.ZSTD,
        help="how values above 1 KiB are compressed in Valkey",
    )
    namespaces: tuple[Namespace, ...] = setting(
        "MODELYARD_CACHE_NAMESPACES_FILE",
        Kind("the path of a TOML file of namespaces, as services/cache/namespaces.toml", _namespaces),
        default=_namespaces(str(_NAMESPACES)),
        help="the namespaces of the key-value cache; sessions and shared by default",
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
    grace: float = setting(
        "MODELYARD_CACHE_GRACE_SECONDS",
        seconds(0, 86400 * 7),
        default=_HOUR,
        help="how long past its time an answer is served while the origin is away",
    )
    lease_wait: float = setting(
        "MODELYARD_CACHE_LEASE_WAIT_SECONDS",
        seconds(0, 10),
        default=0.5,
        help="how long to wait for an answer that another process is loading",
    )
    warm_keys: int = setting(
        "MODELYARD_CACHE_WARM_KEYS",
        integer(0, 100_000),
        default=2000,
        help="how many of the most-read answers are loaded at the start; 0 warms nothing up",
    )
    warm_rate: int = setting(
        "MODELYARD_CACHE_WARM_RATE", integer(1, 100_000), default=200, help="calls of the origin per second meanwhile"
    )
    warm_patience: float = setting(
        "MODELYARD_CACHE_WARM_PATIENCE_SECONDS",
        seconds(0, 60),
        default=2.0,
        help="how long the warm-up may keep the process from being ready",
    )
    ttl_absent: float = setting(
        "MODELYARD_CACHE_TTL_ABSENT_SECONDS", seconds(0, 86400), default=30.0, help="that there is no such thing"
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
        "MODELYARD_CACHE_TTL_DEPLOYMENTS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="deployments"
    )
    ttl_assets: float = setting(
        "MODELYARD_CACHE_TTL_ASSETS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="what is known of assets"
    )

    def most_entry_bytes(self) -> int:
        """
        The bound of an entry with all that belongs to it.
        """
        return self.most_value_bytes + (1 << 20)

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
