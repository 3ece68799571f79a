"""
Data sets and metrics of evaluations: their ids, and whether higher or lower is better.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.chassis.checks import Checks
from services.registry.model.names import NamespaceName
from services.registry.model.search.filters import Comparison, Condition, Every, Negation, Score, Some

#: The maximum length of a metric name in MLflow.
MOST_ID = 250

#: Description of a data set or metric id, for error messages.
MEASURES = f"1 to {MOST_ID} printable characters, without spaces at the ends"


def measure_id(text: str) -> str | None:
    """
    The id of a data set or a metric that *text* is: as people write them, in NFC, so that one name has one form.

    Returns:
        None when it is none: it is empty or too long, begins or ends with a space, or has a character that cannot be
        seen (controls, formats, spaces but the usual one): two ids that look alike would be two leaderboards.
    """
    # Far more than can be an id need not be normalized.
    found = unicodedata.normalize("NFC", text) if len(text) <= 4 * MOST_ID else ""
    fits = 0 < len(found) <= MOST_ID and found.isprintable() and found == found.strip(" ")
    return found if fits else None


def check_measure(checks: Checks, field: str, text: str) -> str:
    """
    The id in *text*; an invalid one is reported on *field*.
    """
    if (found := measure_id(text)) is None:
        checks.add(field, f"must be {MEASURES}")
    return found or ""


class Direction(StrEnum):
    """
    Which values of a metric are better.
    """

    HIGHER = "HIGHER"
    LOWER = "LOWER"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric of a namespace.

    Args:
        direction: None when it is not set.
        datasets, results: on how many data sets there are results of it, and how many.
        update_time, revision: of the write that said the direction.
    """

    id: str
    direction: Direction | None
    datasets: int
    results: int
    update_time: datetime | None
    revision: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """
    A data set of a namespace: how many metrics there are results of on it, and how many results.
    """

    id: str
    metrics: int
    results: int


@dataclass(frozen=True, slots=True)
class MetricUpdate:
    """
    What UpdateMetric asks for.

    Args:
        direction: None clears it.
    """

    parent: NamespaceName
    metric: str
    direction: Direction | None


def scores_of(condition: Condition) -> Iterator[Score]:
    """
    The results that a condition compares.
    """
    match condition:
        case Comparison(Score() as score):
            yield score
        case Every(parts) | Some(parts):
            for part in parts:
                yield from scores_of(part)
        case Negation(part):
            yield from scores_of(part)


def with_directions(condition: Condition, lower: frozenset[str]) -> Condition:
    """
    The condition with the best results of models: the lowest ones of the metrics *lower*.
    """
    match condition:
        case Comparison(Score(_, metric) as score) if metric in lower:
            return replace(condition, field=replace(score, lower=True))
        case Every(parts):
            return Every(tuple(with_directions(part, lower) for part in parts))
        case Some(parts):
            return Some(tuple(with_directions(part, lower) for part in parts))
        case Negation(part):
            return Negation(with_directions(part, lower))
        case _:
            return condition
