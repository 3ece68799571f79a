"""
Update masks: which fields a write may touch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from services.chassis.checks import Checks


def check_mask(checks: Checks, paths: Iterable[str], mutable: Collection[str]) -> frozenset[str]:
    """
    The fields that an update mask names; `*` alone means all of *mutable*.

    An empty mask is a mistake here, not "all that is set": a client that forgot the mask must not clear half a model.
    """
    named = list(paths)
    if not named:
        checks.add("update_mask", f"must name at least one of {', '.join(sorted(mutable))}; or * for all")
    if named == ["*"]:
        return frozenset(mutable)
    for path in sorted(set(named) - set(mutable)):
        shown = path[:80].encode("unicode_escape").decode()
        if path == "*":
            checks.add("update_mask", "* stands alone")
        else:
            checks.add("update_mask", f'"{shown}" is not one of {", ".join(sorted(mutable))}')
    return frozenset(named) & frozenset(mutable)
