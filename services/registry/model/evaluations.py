"""
Evaluations: measured results of versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from services.chassis.checks import MOST_INT64, Checks
from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.ledger.model.pages import Listed
from services.registry.model.evaluation_metrics import Direction, check_measure
from services.registry.model.names import ModelName, NamespaceName, VersionName
from services.registry.model.search.filters import Condition

MOST_RECORDED = 10_000
#: Maximum number of results that one write may delete.
MOST_DELETED = 10_000

_NAME = re.compile(r"(.+/versions/[0-9]+)/evaluations/([1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class EvaluationName:
    """
    namespaces/{namespace}/models/{model}/versions/{number}/evaluations/{id}.
    """

    version: VersionName
    id: int

    @classmethod
    def parse(cls, text: str, field: str = "name") -> EvaluationName:
        """
        Raises:
            InvalidArgument: *text* is no such name.
        """
        match = _NAME.fullmatch(text)
        if match is None or int(match[2]) > MOST_INT64:
            raise InvalidArgument.of(
                field, "must be namespaces/{namespace}/models/{model}/versions/{number}/evaluations/{id}"
            )
        return cls(VersionName.parse(match[1], field), int(match[2]))

    @classmethod
    def nowhere(cls) -> EvaluationName:
        """
        See `Name`.
        """
        return cls(VersionName.nowhere(), 0)

    def __str__(self) -> str:
        return f"{self.version}/evaluations/{self.id}"


@dataclass(frozen=True, slots=True)
class EvaluationDraft:
    """
    The fields of a result that a client sets.

    Args:
        dataset, metric: ids, such as imagenet-real and top1 (see `measure_id`).
        value: a finite number; whether more is better depends on the metric.
        parameters: how it was measured.
        evaluate_time: when it was measured; None means when it is recorded.
    """

    version: VersionName
    dataset: str
    metric: str
    value: float
    parameters: dict[str, str] = field(default_factory=dict)
    evaluate_time: datetime | None = None

    def check(self, checks: Checks, at: str) -> None:
        """
        Note what is malformed; *at* is the path of the result in the request.
        """
        check_measure(checks, f"{at}.dataset", self.dataset)
        check_measure(checks, f"{at}.metric", self.metric)
        checks.finite(f"{at}.value", self.value)
        checks.labels(f"{at}.parameters", self.parameters)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """
    A stored result; *draft.evaluate_time* is set.
    """

    id: int
    draft: EvaluationDraft
    create_time: datetime
    revision: int

    @property
    def name(self) -> str:
        """
        namespaces/{namespace}/models/{model}/versions/{number}/evaluations/{id}.
        """
        return f"{self.draft.version}/evaluations/{self.id}"


@dataclass(frozen=True, slots=True)
class RecordedEvaluations:
    """
    How many results a write stored, its revision, and how many results they replaced.
    """

    count: int
    revision: int
    replaced: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """
    All results of a version; of one data set or one metric, when those are not empty.
    """

    version: VersionName
    dataset: str
    metric: str


def too_many(parent: object) -> FailedPrecondition:
    """
    The error for a write that would delete too many results.
    """
    return FailedPrecondition(
        "TOO_MANY_EVALUATIONS",
        f"more than {MOST_DELETED:,} results of {parent} would go: select a data set and a metric",
        metadata={"resource": str(parent)},
    )


@dataclass(frozen=True, slots=True)
class EvaluationFilter:
    """
    Which results of a model to list.

    Args:
        parent: the model, or one version of it.
        dataset, metric: empty means any.
        least, most: bounds of the value, both included; None means none.
    """

    parent: ModelName | VersionName
    dataset: str
    metric: str
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class LeaderboardEntry:
    """
    An entry of a leaderboard: a model and its best result.
    """

    model: ModelName
    best: Evaluation
    parameter_count: int


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """
    What QueryLeaderboard asks for.

    Args:
        condition: on the models; None means none.
        direction: which values are better; None leaves it to the metric.
    """

    parent: NamespaceName
    dataset: str
    metric: str
    condition: Condition | None
    direction: Direction | None


@dataclass(frozen=True, slots=True)
class LeaderboardPage:
    """
    A page of a leaderboard, and the direction of its order.
    """

    entries: Listed[LeaderboardEntry]
    direction: Direction

    @property
    def revision(self) -> int:
        """
        That it reflects.
        """
        return self.entries.revision
