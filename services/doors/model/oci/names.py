"""
Names of repositories and digests, as clients of OCI registries write them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import InvalidArgument, NotFound

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SHA512: Final = re.compile(r"sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Name:
    """
    The name of a repository.

    Args:
        text: as the client wrote it, decoded.
        namespace: of the model.
        model: its id.
    """

    text: str
    namespace: str
    model: str

    @classmethod
    def of(cls, text: str, default: str) -> Name:
        """
        Args:
            text: `namespace/model`, or `model` in the default namespace. Upper-case letters are taken as they are,
                though most clients do not send them.
            default: namespace of a name without one.

        Raises:
            InvalidArgument: it is no name.
            NotFound: no model can have it.
        """
        parts = text.split("/")
        if len(text) > 255 or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidArgument.of("name", "is not namespace/model")
        if len(parts) > 2:
            raise NotFound("MODEL_NOT_FOUND", text, f"there is no model {text}: names have the form namespace/model")
        return cls(text, parts[0] if len(parts) == 2 else default, parts[-1])

    @property
    def resource(self) -> str:
        """
        Of the model in the registry.
        """
        return f"namespaces/{self.namespace}/models/{self.model}"


def check_digest(text: str) -> None:
    """
    Raises:
        InvalidArgument: it is not the digest of anything.
    """
    known = {"sha256": _SHA256, "sha512": _SHA512}.get(text.partition(":")[0], _DIGEST)
    if len(text) > 255 or not known.fullmatch(text):
        raise InvalidArgument.of("digest", "is not algorithm:hexadecimal, such as sha256: and 64 digits")


def is_sha256(digest: str) -> bool:
    """
    Whether a digest is of the algorithm that everything here is named by.
    """
    return _SHA256.fullmatch(digest) is not None
