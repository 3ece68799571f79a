"""
Commit ids of versions: 40 hexadecimal digits, computed from the model and the version's number, and never stored.

Clients keep what they downloaded by commit id for ever. A model that is deleted and created again under the same name
is another model, so its time of creation is part of its ids.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
#: The beginning of a commit id, as clients may send it.
PREFIX: Final = re.compile(r"[0-9a-f]{5,39}")


@dataclass(frozen=True, slots=True)
class Commits:
    """
    The commit ids of one model.

    Args:
        model: its name.
        created: when it was created, in nanoseconds since 1970.
    """

    model: str
    created: int

    def of(self, number: int) -> str:
        """
        The commit id of a version; 0 is the commit before the first version.
        """
        key = self._key()
        masked = number ^ int.from_bytes(key[:8], "big")
        # The beginning of an id, which people abbreviate it to, differs from version to version.
        return f"{self._check(key, number)}{masked:016x}"

    def number(self, commit: str) -> int | None:
        """
        The number of the version with a commit id; None if it is not of this model.
        """
        key = self._key()
        number = int(commit[24:], 16) ^ int.from_bytes(key[:8], "big")
        return number if number < 1 << 63 and commit[:24] == self._check(key, number) else None

    def _key(self) -> bytes:
        return hashlib.sha256(f"{self.model}\n{self.created}".encode()).digest()

    @staticmethod
    def _check(key: bytes, number: int) -> str:
        return hashlib.sha256(key + number.to_bytes(8, "big")).hexdigest()[:24]
