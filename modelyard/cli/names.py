"""
Short names on the command line, expanded to full names. The server validates them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_NAMESPACE = "default"
#: Not an alias: the newest READY version.
LATEST = "latest"
#: The forms of a version in all commands.
FORMS = "MODEL@3, MODEL@production, MODEL@latest or the full name"
GRAMMAR = f"write {FORMS}"


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
    A reference to a version, not resolved yet (see `modelyard.cli.refs`): ``MODEL@3`` or ``MODEL:3``,
    ``MODEL@production``, ``MODEL@latest``, ``MODEL`` alone, or a full name.

    Args:
        model: the model's full name.
        number: version number; empty with *alias*, or for the newest version.
        alias: id of an alias; empty with *number*, or for the newest version.
        bare: the reference is the model alone.
    """

    model: str
    number: str = ""
    alias: str = ""
    bare: bool = False

    @classmethod
    def parse(cls, text: str) -> VersionRef:
        """
        Parse a reference.

        Raises:
            ValueError: *text* has none of these forms.
        """
        full = re.fullmatch(r"(namespaces/[^/]+/models/[^/@:]+)/(versions|aliases)/([^/]+)", text)
        if full is not None:
            return cls(full[1], number=full[3]) if full[2] == "versions" else cls(full[1], alias=full[3])
        model, mark, rest = re.fullmatch(r"([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        is_number = rest.isascii() and rest.isdecimal()
        if not model or (mark and not rest) or (mark == ":" and not is_number and rest != LATEST):
            raise ValueError(f"{text!r} is not a version: {GRAMMAR}")
        if is_number:
            return cls(model_name(model), number=rest)
        return cls(model_name(model), alias="" if rest == LATEST else rest, bare=not mark)

    @property
    def newest(self) -> bool:
        """
        Whether it refers to the newest READY version.
        """
        return not self.number and not self.alias

    @property
    def name(self) -> str:
        """
        The full name of the version, of the alias, or of the model for its newest version.
        """
        if self.newest:
            return self.model
        return f"{self.model}/versions/{self.number}" if self.number else f"{self.model}/aliases/{self.alias}"
