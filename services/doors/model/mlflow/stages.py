"""
Stages of versions.
"""

from __future__ import annotations

from typing import Final

from services.chassis.errors import InvalidArgument

NONE: Final = "None"
ACTIVE: Final = ("Staging", "Production")
ARCHIVED: Final = "Archived"
STAGES: Final = (NONE, *ACTIVE, ARCHIVED)
_BY_LOWER: Final = {each.lower(): each for each in STAGES}


def canonical(stage: str) -> str:
    """
    A stage as MLflow writes it, from any case.

    Raises:
        InvalidArgument: there is no such stage.
    """
    found = _BY_LOWER.get(stage.lower())
    if found is None:
        raise InvalidArgument.of(
            "", f"Invalid Model Version stage: {stage[:100]}. Value must be one of {', '.join(STAGES)}."
        )
    return found


def stored(stage: str) -> str:
    """
    A stage as the registry has it: none is empty there.
    """
    return "" if stage == NONE else stage


def shown(stage: str) -> str:
    """
    A stage of the registry as MLflow shows it.
    """
    return stage or NONE
