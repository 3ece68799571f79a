"""
Evaluations: measured results of versions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from services.chassis.checks import SLUG, Checks
from services.registry.model.filters import Condition
from services.registry.model.names import ModelName, NamespaceName, VersionName

MOST_RECORDED = 10_000


@dataclass(frozen=True, slots=True)
class EvaluationDraft:
    """
    What a client says of one result.

    Args:
        dataset: such as imagenet-real.
        metric: such as top1.
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
        checks.matches(f"{at}.dataset", self.dataset, SLUG)
        checks.matches(f"{at}.metric", self.metric, SLUG)
        checks.finite(f"{at}.value", self.value)
        checks.labels(f"{at}.parameters", self.parameters)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """
    One result as it is kept; *draft.evaluate_time* is set.
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
class Recorded:
    """
    How many results a write stored, and its revision.
    """

    count: int
    revision: int


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
class Place:
    """
    One place on a leaderboard: a model and its best result.
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
        ascending: the lowest value is the best.
    """

    parent: NamespaceName
    dataset: str
    metric: str
    condition: Condition | None
    ascending: bool
