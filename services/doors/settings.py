"""
The settings of the doors. Only `__main__` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis.settings import Address, CommonSettings, addresses, integer, seconds, setting, text, url


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorsSettings(CommonSettings):
    """
    Where the services are, and what the doors tell their clients.
    """

    registry: tuple[Address, ...] = setting(
        "MODELYARD_REGISTRY_TARGET", addresses(), help="the registry's workers: host:port, comma-separated"
    )
    cache: tuple[Address, ...] | None = setting(
        "MODELYARD_CACHE_TARGET",
        addresses(),
        default=None,
        help="the cache's workers: host:port, comma-separated; unset: every read goes to its origin",
    )
    cdn: tuple[Address, ...] = setting(
        "MODELYARD_CDN_TARGET", addresses(), help="the asset service's workers: host:port, comma-separated"
    )
    public_url: str | None = setting(
        "MODELYARD_PUBLIC_URL",
        url("http", "https"),
        default=None,
        help="URL of the gateway as clients see it; unset: from the Host header of each request",
    )
    default_namespace: str = setting(
        "MODELYARD_DOORS_NAMESPACE",
        text(),
        default="default",
        help="namespace of names that have none: Hub repositories without an owner, MLflow without a path prefix",
    )
    call_seconds: float = setting(
        "MODELYARD_DOORS_CALL_SECONDS",
        seconds(0.1, 600),
        default=30.0,
        help="timeout of a call to another service",
    )
    manifest_bytes: int = setting(
        "MODELYARD_DOORS_MANIFEST_BYTES",
        integer(0, 1 << 34),
        default=64 << 20,
        help="memory for manifests of immutable versions, in bytes",
    )

    def registry_targets(self) -> list[str]:
        """
        The registry's workers.
        """
        return [str(each) for each in self.registry]

    def cache_targets(self) -> list[str]:
        """
        The cache's workers.
        """
        return [str(each) for each in self.cache or ()]

    def cdn_targets(self) -> list[str]:
        """
        The asset service's workers.
        """
        return [str(each) for each in self.cdn]
