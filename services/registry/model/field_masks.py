"""
Update masks: which fields a write may touch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from services.chassis.checks import MOST_ANNOTATIONS, MOST_LABELS, Checks, size_of
from services.chassis.errors import InvalidArgument

T = TypeVar("T")

#: Fields of which a mask may name one entry: "labels.team".
MAPS = ("labels", "annotations")
# A key is all that follows the dot and needs no quotes, but clients may put the backticks of AIP-161 around it.
_ENTRY = re.compile(r"([a-z_]+)\.(?:`([^`]+)`|(.+))", re.DOTALL)


def check_mask(checks: Checks, paths: Iterable[str], mutable: Collection[str]) -> frozenset[str]:
    """
    The fields that an update mask names; `*` alone means all of *mutable*. For an entry of a map it is "labels.team",
    whatever quotes the client used.

    An empty mask is a mistake here, not "all that is set": a client that forgot the mask must not clear half a model.
    """
    named = list(paths)
    if not named:
        checks.add("update_mask", f"must name at least one of {', '.join(sorted(mutable))}; or * for all")
    if named == ["*"]:
        return frozenset(mutable)
    entries = {path: entry for path in named if (entry := _entry(path, mutable))}
    for path in sorted(set(named) - set(mutable) - set(entries)):
        if path == "*":
            checks.add("update_mask", "* stands alone")
        else:
            checks.add("update_mask", f'"{_shown(path)}" is not one of {", ".join(sorted(mutable))}')
    for path, entry in sorted(entries.items()):
        if entry.partition(".")[0] in named:
            checks.add("update_mask", f'"{_shown(path)}" is part of a field that the mask names, too')
    return (frozenset(named) & frozenset(mutable)) | frozenset(entries.values())


def fields(paths: Iterable[str]) -> frozenset[str]:
    """
    The fields that are named by *paths*, whole or by one of their entries.
    """
    return frozenset(path.partition(".")[0] for path in paths)


def merged(before: T, other: T, paths: Collection[str], most: int = MOST_LABELS) -> T:
    """
    A draft with the fields in *paths* taken from another. An entry that the other one does not have is removed.

    Args:
        most: entries of a map.

    Raises:
        InvalidArgument: a map has too many entries then, or annotations are too large.
    """
    changed: dict[str, Any] = {}
    for path in sorted(paths):
        field, dot, key = path.partition(".")
        if not dot:
            changed[field] = getattr(other, field)
            continue
        entries = changed.setdefault(field, dict(getattr(before, field)))
        entries.pop(key, None)
        if key in (given := getattr(other, field)):
            entries[key] = given[key]
        if len(entries) > most and len(entries) > len(getattr(before, field)):
            raise InvalidArgument.of(field, f"must have at most {most} entries, and would have {len(entries)}")
        size = size_of(entries) if field == "annotations" else 0
        if size > MOST_ANNOTATIONS and size > size_of(getattr(before, field)):
            raise InvalidArgument.of(
                field, f"must have at most {MOST_ANNOTATIONS:,} bytes in all, and would have {size:,}"
            )
    return replace(before, **changed)  # type: ignore[type-var]  # drafts are dataclasses


def _entry(path: str, mutable: Collection[str]) -> str:
    match = _ENTRY.fullmatch(path)
    if match is None or match[1] not in MAPS or match[1] not in mutable:
        return ""
    return f"{match[1]}.{match[2] or match[3]}"


def _shown(path: str) -> str:
    return path[:80].encode("unicode_escape").decode()
