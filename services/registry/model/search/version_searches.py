"""
Searches of versions: conditions and an order over the versions of a namespace or of a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.chassis.checks import Checks
from services.ledger.model.pages import Key, Listed
from services.registry.model.aliases import Alias
from services.registry.model.names import ModelName, NamespaceName
from services.registry.model.search.filters import Condition
from services.registry.model.versions import Version

_MOST_ORDER = 1024
_ORDER = re.compile(r"\s*(\S+)(?:\s+(asc|desc))?\s*")

#: What versions are ordered by, and the types of its values.
VERSION_ORDERS: Final[dict[str, type[Key]]] = {
    "update_time": datetime,
    "create_time": datetime,
    "model": str,
    "number": int,
}


@dataclass(frozen=True, slots=True)
class VersionOrder:
    """
    One column to sort by.
    """

    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class VersionSearch:
    """
    What SearchVersions asks for.

    Args:
        parent: whose versions.
        condition: must hold; None means no condition.
        order: total: its fields include the model and the number.
        artifacts: return them, too.
    """

    parent: NamespaceName | ModelName
    condition: Condition | None
    order: tuple[VersionOrder, ...]
    artifacts: bool

    @property
    def namespace(self) -> NamespaceName:
        """
        The namespace of the versions.
        """
        return self.parent if isinstance(self.parent, NamespaceName) else self.parent.parent

    @property
    def key_types(self) -> tuple[type[Key], ...]:
        """
        The types of the sort key's parts.
        """
        return tuple(VERSION_ORDERS[each.field] for each in self.order)


@dataclass(frozen=True, slots=True)
class FoundVersions:
    """
    A page of versions, and the aliases that point at them, in the same order.
    """

    versions: Listed[Version]
    aliases: tuple[Alias, ...]

    @property
    def revision(self) -> int:
        """
        The revision that they reflect.
        """
        return self.versions.revision


def parse_version_order(checks: Checks, field: str, text: str) -> tuple[VersionOrder, ...]:
    """
    The order that `order_by` asks for, made total by the model and, the newest first, the number.
    """
    keys: list[VersionOrder] = []
    checks.text(field, text, _MOST_ORDER)
    position = 1
    for part in text[:_MOST_ORDER].split(",") if text.strip() else ():
        match = _ORDER.fullmatch(part)
        if match is None or match[1] not in VERSION_ORDERS:
            known = ", ".join(VERSION_ORDERS)
            checks.add(field, f"at {position}: expected one of {known}, each with asc or desc or nothing")
            break
        if any(each.field == match[1] for each in keys):
            checks.add(field, f"at {position}: {match[1]} comes twice")
            break
        keys.append(VersionOrder(match[1], match[2] == "desc"))
        position += len(part) + 1
    more = (VersionOrder("model"), VersionOrder("number", descending=True))
    keys = keys or [VersionOrder("update_time", descending=True)]
    return (*keys, *(each for each in more if all(each.field != key.field for key in keys)))
