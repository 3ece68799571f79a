"""
Names of repositories: `namespace/model`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import NotFound

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Repository:
    """
    A repository.

    Args:
        namespace: of the model.
        model: its id.
    """

    namespace: str
    model: str

    @classmethod
    def of(cls, namespace: str, model: str) -> Repository:
        """
        Raises:
            NotFound: no model can have this name (MODEL_NOT_FOUND).
        """
        if not _MODEL.fullmatch(model) or len(namespace) > 128 or "/" in namespace:
            raise NotFound("MODEL_NOT_FOUND", f"{namespace}/{model}", f"there is no model {namespace}/{model}"[:300])
        return cls(namespace, model)

    @property
    def name(self) -> str:
        """
        Of the model in the registry.
        """
        return f"namespaces/{self.namespace}/models/{self.model}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.model}"
