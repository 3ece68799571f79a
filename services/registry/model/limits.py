"""
Limits per model or version for resources that are not garbage collected (docs/adr/0038).
"""

from __future__ import annotations

from services.chassis.errors import ResourceExhausted

#: Numbers of a card: each keeps the whole card as it was.
MOST_CARD_NUMBERS = 10_000
#: Results of one version.
MOST_RESULTS = 100_000
#: Aliases of one model at a time.
MOST_ALIASES = 1_000


def check_card_numbers(card: object, numbers: int) -> None:
    """
    Args:
        numbers: with the one that is about to be written.

    Raises:
        ResourceExhausted: a card may not have so many.
    """
    if numbers > MOST_CARD_NUMBERS:
        raise _too_many(
            "CARD_NUMBERS",
            "card",
            card,
            MOST_CARD_NUMBERS,
            "numbers: record what changes with every run as evaluations or labels, or begin another model",
        )


def check_results(version: object, results: int) -> None:
    """
    Args:
        results: with those that are about to be written, as far as they were counted.

    Raises:
        ResourceExhausted: a version may not have so many.
    """
    if results > MOST_RESULTS:
        raise _too_many(
            "EVALUATION_COUNT",
            "evaluations",
            version,
            MOST_RESULTS,
            "results: record summaries in place of every step, delete old ones, or record them for another version",
        )


def check_aliases(model: object, aliases: int) -> None:
    """
    Args:
        aliases: with those that are about to be made, as far as they were counted.

    Raises:
        ResourceExhausted: a model may not have so many.
    """
    if aliases > MOST_ALIASES:
        raise _too_many(
            "ALIAS_COUNT", "moves", model, MOST_ALIASES, "aliases: remove some, or use labels of versions instead"
        )


def _too_many(reason: str, field: str, resource: object, most: int, fix: str) -> ResourceExhausted:
    return ResourceExhausted(
        reason,
        f"{field}: {resource} may have {most:,} {fix}",
        metadata={"field": field, "resource": str(resource), "most": str(most)},
    )
