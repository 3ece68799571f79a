"""
Short names on the command line. The server checks names; here they are only filled up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_NAMESPACE = "default"


def namespace_name(text: str) -> str:
    """
    ``default`` or the full name → ``namespaces/default``.
    """
    return text if text.startswith("namespaces/") else f"namespaces/{text}"


def model_name(text: str) -> str:
    """
    ``resnet50``, ``default/resnet50`` or the full name → ``namespaces/default/models/resnet50``.
    """
    if text.startswith("namespaces/"):
        return text
    namespace, slash, model = text.rpartition("/")
    return f"namespaces/{namespace if slash else DEFAULT_NAMESPACE}/models/{model}"


def split_model(text: str) -> tuple[str, str]:
    """
    The namespace's full name and the model's id.
    """
    parent, _, model = model_name(text).partition("/models/")
    return parent, model


def asset_name(text: str) -> str:
    """
    A digest or the full name → ``assets/{sha256}``.
    """
    return text if text.startswith("assets/") else f"assets/{text}"


@dataclass(frozen=True, slots=True)
class VersionRef:
    """
    What ``MODEL@3``, ``MODEL@production`` or a full name point at.

    Args:
        model: the model's full name.
        number: of the version; empty when *alias* is given.
        alias: the id of an alias; empty when *number* is given.
    """

    model: str
    number: str = ""
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> VersionRef:
        """
        Raises:
            ValueError: it names a model and no version.
        """
        full = re.fullmatch(r"(namespaces/[^/]+/models/[^/@]+)/(versions|aliases)/([^/]+)", text)
        if full is not None:
            return cls(full[1], number=full[3]) if full[2] == "versions" else cls(full[1], alias=full[3])
        model, at, rest = text.rpartition("@")
        if not (at and model and rest):
            raise ValueError(f"{text!r} says no version: write MODEL@3, MODEL@production or the full name")
        return cls(model_name(model), number=rest) if rest.isdecimal() else cls(model_name(model), alias=rest)

    @property
    def name(self) -> str:
        """
        The full name of the version, or of the alias.
        """
        return f"{self.model}/versions/{self.number}" if self.number else f"{self.model}/aliases/{self.alias}"
