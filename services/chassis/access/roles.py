"""
Roles and what they may do: see docs/access.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Role(IntEnum):
    """
    What a caller is in a namespace. Each role includes the ones before it.
    """

    NONE = 0
    READER = 1
    WRITER = 2
    MAINTAINER = 3
    OWNER = 4


#: The least role that has each permission. Permissions that are not in it are decided elsewhere: those of assets by
#: what the caller may read, those of the key-value cache by the lists of its namespaces.
PERMISSIONS: Final[Mapping[str, Role]] = {
    **dict.fromkeys(
        (
            "namespaces.read",
            "models.read",
            "versions.read",
            "aliases.read",
            "cards.read",
            "evaluations.read",
            "deployments.read",
            "changes.read",
            "rules.read",
            "promotions.read",
        ),
        Role.READER,
    ),
    **dict.fromkeys(
        (
            "models.write",
            "versions.write",
            "cards.write",
            "evaluations.write",
            "promotions.write",
            # The rules of the alias say who of them may.
            "promotions.review",
        ),
        Role.WRITER,
    ),
    **dict.fromkeys(
        (
            "aliases.write",
            "deployments.write",
            "models.delete",
            "versions.delete",
            "policies.read",
            "namespaces.create",
        ),
        Role.MAINTAINER,
    ),
    **dict.fromkeys(
        (
            "policies.write",
            "rules.write",
            "tokens.read",
            "tokens.write",
            "namespaces.update",
            "namespaces.delete",
            "models.purge",
            "audit.read",
        ),
        Role.OWNER,
    ),
}
