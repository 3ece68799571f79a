"""
Namespaces: every model lives in exactly one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime

from services.registry.model.changes import Image
from services.registry.model.checks import Checks
from services.registry.model.names import NamespaceName


@dataclass(frozen=True, slots=True)
class NamespaceDraft:
    """
    What a client says of a namespace.

    Args:
        max_models: how many models it may hold; 0 means no bound.
        max_asset_bytes: how many bytes its versions may have in all; 0 means no bound.
    """

    display_name: str = ""
    description: str = ""
    owner: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    max_models: int = 0
    max_asset_bytes: int = 0

    def check(self, checks: Checks, at: str) -> None:
        """
        Note what is out of bounds; *at* is the path of the namespace in the request.
        """
        checks.text(f"{at}.display_name", self.display_name, 256)
        checks.text(f"{at}.description", self.description, 4096)
        checks.text(f"{at}.owner", self.owner, 256)
        checks.labels(f"{at}.labels", self.labels)
        checks.count(f"{at}.quota.max_models", self.max_models)
        checks.count(f"{at}.quota.max_asset_bytes", self.max_asset_bytes)

    def image(self) -> Image:
        """
        The audit's picture of it.
        """
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Namespace:
    """
    A namespace as it is kept.
    """

    name: NamespaceName
    draft: NamespaceDraft
    create_time: datetime
    update_time: datetime
    revision: int
