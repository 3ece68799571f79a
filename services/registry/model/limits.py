"""
Limits per model or version for resources that are not garbage collected (docs/adr/0038).
"""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class Limit:
    """
    The most items of one kind that a resource may have.

    Args:
        reason: of the error.
        field: of the request that would exceed it.
        most: the limit.
        items: what is counted.
        advice: what to do instead.
    """

    reason: str
    field: str
    most: int
    items: str
    advice: str

    def check(self, resource: object, count: int) -> None:
        """
        Args:
            resource: whose items are counted.
            count: including those that are about to be written.

        Raises:
            ResourceExhausted: *count* exceeds the limit.
        """
        if count > self.most:
            raise ResourceExhausted(
                self.reason,
                f"{self.field}: {resource} may have {self.most:,} {self.items}: {self.advice}",
                metadata={"field": self.field, "resource": str(resource), "most": str(self.most)},
            )


#: Numbers of a card: each stores the whole card.
CARD_NUMBERS = Limit(
    "CARD_NUMBERS",
    "card",
    10_000,
    "numbers",
    "record what changes with every run as evaluations or labels, or begin another model",
)
#: Evaluations of one version.
EVALUATIONS = Limit(
    "EVALUATION_COUNT",
    "evaluations",
    100_000,
    "results",
    "record summaries in place of every step, delete old ones, or record them for another version",
)
#: Aliases of one model at a time.
ALIASES = Limit("ALIAS_COUNT", "moves", 1_000, "aliases", "remove some, or use labels of versions instead")
#: Promotions of one model.
PROMOTIONS = Limit(
    "PROMOTION_COUNT",
    "promotion",
    10_000,
    "promotions",
    "move aliases that change that often without a protecting rule",
)
#: Pending promotions of one model.
PENDING_PROMOTIONS = Limit(
    "PROMOTION_COUNT", "promotion", 100, "pending promotions", "review or cancel those that are pending"
)
#: Rules of aliases of one namespace, or of one model.
ALIAS_RULES = Limit("ALIAS_RULE_COUNT", "rule", 100, "rules of aliases", "give one rule several patterns")
