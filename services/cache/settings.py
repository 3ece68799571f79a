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
    The settings of the cache: origins, Valkey, sizes, TTLs. Add one here, and it is read, validated and documented.
    """

    registry: tuple[Address, ...] = setting(
        "MODELYARD_REGISTRY_TARGET", addresses(), help="the registry's workers: host:port, comma-separated"
    )
    cdn: tuple[Address, ...] = setting(
        "MODELYARD_CDN_TARGET", addresses(), help="the asset service's workers: host:port, comma-separated"
    )
    valkey_url: str = setting("MODELYARD_VALKEY_URL", url("redis", "rediss"), help="redis://host:port/database")
    valkey_password: Secret | None = secret(
        "MODELYARD_VALKEY_PASSWORD_FILE", default=None, help="Valkey's password; unset when Valkey requires none"
    )
    valkey_cluster: bool = setting(
        "MODELYARD_VALKEY_CLUSTER", boolean(), default=False, help="whether the URL names a node of a Valkey cluster"
    )
    prefix: str = setting(
        "MODELYARD_CACHE_PREFIX",
        text(),
        default="modelyard",
        help="prefix of all keys in Valkey; must differ between suites that share a Valkey",
    )
    compression: Method = setting(
        "MODELYARD_CACHE_COMPRESSION",
        choice(Method),
        default=Method.ZSTD,
        help="compression of values above 1 KiB in Valkey",
    )
    namespaces: tuple[Namespace, ...] = setting(
        "MODELYARD_CACHE_NAMESPACES_FILE",
        Kind("the path of a TOML file of namespaces, as services/cache/namespaces.toml", _namespaces),
        default=_namespaces(str(_NAMESPACES)),
        help="namespaces of the key-value cache; sessions and shared by default",
    )
    valkey_timeout: float = setting(
        "MODELYARD_VALKEY_TIMEOUT_SECONDS",
        seconds(0.001, 10),
        default=0.05,
        help="timeout of a Valkey command; a read that exceeds it counts as a miss",
    )
    near_bytes: int = setting(
        "MODELYARD_CACHE_NEAR_BYTES",
        integer(0, 1 << 40),
        default=256 << 20,
        help="size of the L1 cache of each worker, in bytes",
    )
    most_value_bytes: int = setting(
        "MODELYARD_CACHE_MOST_VALUE_BYTES",
        integer(0, 1 << 30),
        default=1 << 20,
        help="maximum size of a cached answer, in bytes; larger ones are not cached",
    )
    stream_bound: float = setting(
        "MODELYARD_CACHE_STREAM_BOUND_SECONDS",
        seconds(0.5, 60),
        default=2.0,
        help="maximum age of the change stream's last message for cached answers to be served (bounds staleness)",
    )
    grace: float = setting(
        "MODELYARD_CACHE_GRACE_SECONDS",
        seconds(0, 86400 * 7),
        default=_HOUR,
        help="stale-if-error: how long after its TTL an answer may be served while the origin is unavailable",
    )
    lease_wait: float = setting(
        "MODELYARD_CACHE_LEASE_WAIT_SECONDS",
        seconds(0, 10),
        default=0.5,
        help="how long to wait for an answer that another process is loading (stampede protection)",
    )
    warm_keys: int = setting(
        "MODELYARD_CACHE_WARM_KEYS",
        integer(0, 100_000),
        default=2000,
        help="number of most-read answers to load at the start; 0 disables the warm-up",
    )
    warm_rate: int = setting(
        "MODELYARD_CACHE_WARM_RATE", integer(1, 100_000), default=200, help="origin calls per second during the warm-up"
    )
    warm_patience: float = setting(
        "MODELYARD_CACHE_WARM_PATIENCE_SECONDS",
        seconds(0, 60),
        default=2.0,
        help="how long the warm-up may delay readiness",
    )
    ttl_absent: float = setting(
        "MODELYARD_CACHE_TTL_ABSENT_SECONDS",
        seconds(0, 86400),
        default=30.0,
        help="TTL of NOT_FOUND answers (negative caching)",
    )
    ttl_models: float = setting(
        "MODELYARD_CACHE_TTL_MODELS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="TTL of models"
    )
    ttl_searches: float = setting(
        "MODELYARD_CACHE_TTL_SEARCHES_SECONDS",
        seconds(0, 86400 * 30),
        default=300.0,
        help="TTL of searches and leaderboards",
    )
    ttl_cards: float = setting(
        "MODELYARD_CACHE_TTL_CARDS_SECONDS", seconds(0, 86400 * 30), default=2 * _HOUR, help="TTL of model cards"
    )
    ttl_deployments: float = setting(
        "MODELYARD_CACHE_TTL_DEPLOYMENTS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="TTL of deployments"
    )
    ttl_assets: float = setting(
        "MODELYARD_CACHE_TTL_ASSETS_SECONDS", seconds(0, 86400 * 30), default=_HOUR, help="TTL of asset metadata"
    )

    def most_entry_bytes(self) -> int:
        """
        The maximum size of an encoded entry: the value, its tags and its header.
        """
        return self.most_value_bytes + (1 << 20)

    def ttl(self) -> dict[str, float]:
        """
        TTL in seconds, by the class that an RPC's cache policy names.
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
        The registry's workers, as gRPC targets.
        """
        return [str(one) for one in self.registry]

    def cdn_targets(self) -> list[str]:
        """
        The asset service's workers, as gRPC targets.
        """
        return [str(one) for one in self.cdn]
