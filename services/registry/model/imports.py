"""
Imports: models in bulk, with their versions and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.checks import Checks
from services.ledger.model.changes import Image
from services.registry.model.evaluations import EvaluationDraft
from services.registry.model.models import ModelDraft
from services.registry.model.names import MODEL_ID, ModelName, NamespaceName, VersionName
from services.registry.model.versions import VersionDraft, VersionState

MOST_ITEMS = 1_000
MOST_RESULTS = 20_000
MOST_VERSIONS = 10_000


@dataclass(frozen=True, slots=True)
class Item:
    """
    One model and what comes with it.

    Args:
        versions: numbered 1, 2, 3 … in this order.
        results: each names one of *versions*.
    """

    name: ModelName
    draft: ModelDraft
    versions: tuple[VersionDraft, ...]
    results: tuple[EvaluationDraft, ...]

    def check(self, checks: Checks, at: str) -> None:
        """
        Report invalid fields; *at* is the path of the item in the request.
        """
        checks.matches(f"{at}.model_id", self.name.model, MODEL_ID)
        self.draft.check(checks, f"{at}.model")
        for index, version in enumerate(self.versions):
            version.check(checks, f"{at}.versions[{index}]")
        for index, result in enumerate(self.results):
            result.check(checks, f"{at}.evaluations[{index}]")
            if not 1 <= result.version.number <= len(self.versions):
                checks.add(f"{at}.evaluations[{index}].version", 'must be the number of one of `versions`, such as "1"')

    def image(self) -> Image:
        """
        The item as the audit log records it.
        """
        results = [[each.version.number, each.dataset, each.metric, each.value] for each in self.results]
        return {**self.draft.image(), "versions": [each.image() for each in self.versions], "evaluations": results}


@dataclass(frozen=True, slots=True)
class Batch:
    """
    A batch that is imported in one transaction.

    Args:
        skip_existing: leave models that exist as they are, instead of failing.
    """

    parent: NamespaceName
    items: tuple[Item, ...]
    skip_existing: bool


@dataclass(frozen=True, slots=True)
class Imported:
    """
    The result of a batch.
    """

    revision: int
    models: int
    skipped: int
    versions: int
    results: int


def parent_versions(items: Sequence[Item]) -> list[VersionName]:
    """
    The versions that those of *items* were trained from, without those of *items* themselves.
    """
    own = {
        VersionName(item.name.namespace, item.name.model, number)
        for item in items
        for number in range(1, len(item.versions) + 1)
    }
    drafts = [version for item in items for version in item.versions]
    named = [VersionName.parse(draft.lineage.parent_version) for draft in drafts if draft.lineage.parent_version]
    return [name for name in dict.fromkeys(named) if name not in own]


def check_items(checks: Checks, items: Sequence[Item]) -> None:
    """
    Report errors in the items of a batch and in the batch as a whole.
    """
    results, versions = (sum(len(getattr(item, each)) for item in items) for each in ("results", "versions"))
    if results > MOST_RESULTS:
        checks.add("items", f"must have at most {MOST_RESULTS:,} evaluations in all; they have {results:,}")
    if versions > MOST_VERSIONS:
        checks.add("items", f"must have at most {MOST_VERSIONS:,} versions in all; they have {versions:,}")
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        item.check(checks, f"items[{index}]")
        first = seen.setdefault(item.name.model, index)
        if first != index:
            checks.add(f"items[{index}].model_id", f"is the id of items[{first}], too")


def first_state(draft: VersionDraft) -> VersionState:
    """
    The state in which a version is imported: there is nothing to verify without artifacts.
    """
    return VersionState.PENDING if draft.artifacts else VersionState.READY
