"""
Extracts model metadata from a card in the Hugging Face format: fields, tags, and the results in its `model-index`
(https://huggingface.co/docs/hub/model-cards). What cannot be imported is reported as a warning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from services.chassis.checks import MOST_FREE_ENTRIES, MOST_LABEL_VALUE, Checks
from services.registry.model.evaluation_metrics import measure_id
from services.registry.model.evaluations import EvaluationDraft
from services.registry.model.models import ModelDraft
from services.registry.model.names import VersionName

#: The keys of a card that fill unset fields of a model.
_FIELDS = {"task": "pipeline_tag", "framework": "library_name", "license": "license"}
_MOST_WARNINGS = 100


@dataclass(frozen=True, slots=True)
class CardResult:
    """
    A result in a card.
    """

    dataset: str
    metric: str
    value: float
    parameters: dict[str, str]

    @property
    def key(self) -> tuple[str, str, str]:
        """
        What was measured, and how: a card has one result of it.
        """
        return self.dataset, self.metric, json.dumps(self.parameters, sort_keys=True)

    def of(self, version: VersionName) -> EvaluationDraft:
        """
        As a result of *version*.
        """
        return EvaluationDraft(version, self.dataset, self.metric, self.value, self.parameters)


@dataclass(frozen=True, slots=True)
class CardMetadata:
    """
    The metadata of a model in its card.

    Args:
        model: its fields and labels; empty where the card says nothing.
        results: in the order of the card.
        warnings: values that cannot be imported, each with its place in the front matter.
    """

    model: ModelDraft
    results: tuple[CardResult, ...]
    warnings: tuple[str, ...]

    def fill_empty(self, draft: ModelDraft) -> tuple[ModelDraft, list[str], list[str]]:
        """
        *draft* with its unset fields filled, the names of those fields, and the labels left out because of the limit.

        Set fields are kept: they were set here, and a card is imported from elsewhere, repeatedly.
        """
        fields = {name: getattr(self.model, name) for name in _FIELDS if getattr(self.model, name)}
        fields = {name: text for name, text in fields.items() if not getattr(draft, name)}
        labels, left = dict(draft.labels), []
        for key, value in self.model.labels.items():
            if key not in labels and len(labels) >= MOST_FREE_ENTRIES:
                left.append(f"{key}: a model has at most {MOST_FREE_ENTRIES} labels")
            else:
                labels.setdefault(key, value)
        added = [f"labels.{key}" for key in labels if key not in draft.labels]
        return replace(draft, **fields, labels=dict(sorted(labels.items()))), [*fields, *added], left


def metadata_of(license_: str, extra: Mapping[str, Any]) -> CardMetadata:
    """
    Extract the metadata of a model from a card's front matter.

    Args:
        license_: the card's own field.
        extra: the other keys.
    """
    warnings: list[str] = []
    said = {**extra, "license": extra.get("license", license_)}
    texts: dict[str, Any] = {name: _text(said.get(key), key, name, warnings) for name, key in _FIELDS.items()}
    labels = _labels(said.get("tags"), said.get("datasets"), warnings)
    found: dict[tuple[str, str, str], CardResult] = {}
    for place, result in _results(said.get("model-index"), warnings):
        if (before := found.get(result.key)) is not None and before.value != result.value:
            warnings.append(f"{place}: comes twice, and the last value counts")
        found[result.key] = result
    more = [f"and {len(warnings) - _MOST_WARNINGS:,} more"] if len(warnings) > _MOST_WARNINGS else []
    return CardMetadata(
        replace(ModelDraft(labels=labels), **texts), tuple(found.values()), (*warnings[:_MOST_WARNINGS], *more)
    )


def _text(value: Any, key: str, name: str, warnings: list[str]) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, list) and len(value) == 1:
        # `license: [mit]`, which the Hub accepts.
        value = value[0]
    if not isinstance(value, str):
        warnings.append(f"{key}: is not a text")
        return ""
    checks = Checks()
    fields: dict[str, Any] = {name: value}
    replace(ModelDraft(), **fields).check(checks, "model", {name})
    if len(checks):
        warnings.append(f"{key}: is too long, or has the character NUL")
        return ""
    return value


def _labels(tags: Any, datasets: Any, warnings: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for place, tag in _listed(tags, "tags", warnings):
        checks = Checks()
        # Not any text: what the Hub derives from a card and a repository (license:mit, region:us) is no tag of a model.
        checks.labels("tags", {tag: ""})
        if len(checks):
            warnings.append(f"{place}: {_shown(tag)} cannot be the key of a label")
        else:
            labels[tag] = ""
    names = ", ".join(dict.fromkeys(name for _, name in _listed(datasets, "datasets", warnings)))
    if len(names) > MOST_LABEL_VALUE or "\0" in names:
        warnings.append(f"datasets: the value of a label has at most {MOST_LABEL_VALUE} characters")
    elif names:
        labels["datasets"] = names
    return labels


def _listed(value: Any, key: str, warnings: list[str]) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    for index, each in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(each, str) and each:
            yield f"{key}[{index}]", each
        else:
            warnings.append(f"{key}[{index}]: is not a text")


def _results(index: Any, warnings: list[str]) -> Iterator[tuple[str, CardResult]]:
    for place, entry in _maps(index, "model-index", warnings):
        for at, result in _maps(entry.get("results"), f"{place}.results", warnings):
            dataset = _dataset(result.get("dataset"), f"{at}.dataset", warnings)
            task = result.get("task")
            more = {"task": task.get("type")} if isinstance(task, dict) else {}
            for here, metric in _maps(result.get("metrics"), f"{at}.metrics", warnings):
                if dataset is None:
                    continue
                if (found := _metric(metric, here, dataset, more, warnings)) is not None:
                    yield here, found


def _maps(value: Any, place: str, warnings: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if value is None:
        return
    if not isinstance(value, list):
        warnings.append(f"{place}: is not a list")
        return
    for index, each in enumerate(value):
        if isinstance(each, dict):
            yield f"{place}[{index}]", each
        else:
            warnings.append(f"{place}[{index}]: is not a mapping")


def _dataset(value: Any, place: str, warnings: list[str]) -> tuple[str, dict[str, Any]] | None:
    """
    The id of a data set, and what was taken of it. The Hub's id is its `type`; a configuration of it, such as sst2 of
    glue, is a data set of its own.
    """
    if not isinstance(value, dict):
        warnings.append(f"{place}: is missing, or not a mapping")
        return None
    name, config = value.get("type") or value.get("name"), value.get("config")
    more = f"/{config}" if isinstance(config, str) and config not in {"", "default"} else ""
    if not isinstance(name, str) or (found := measure_id(name + more)) is None:
        warnings.append(f"{place}: has no type that can be the id of a data set")
        return None
    return found, {"split": value.get("split"), "revision": value.get("revision"), "dataset_args": value.get("args")}


def _metric(
    metric: Mapping[str, Any],
    place: str,
    dataset: tuple[str, dict[str, Any]],
    more: Mapping[str, Any],
    warnings: list[str],
) -> CardResult | None:
    name = metric.get("type") or metric.get("name")
    if not isinstance(name, str) or (found := measure_id(name)) is None:
        warnings.append(f"{place}: has no type that can be the id of a metric")
        return None
    if (value := _number(metric.get("value"))) is None:
        warnings.append(f"{place}.value: {_shown(metric.get('value'))} is not a finite number")
        return None
    if metric.get("verified"):
        # Any author of a card can claim this; the proof is a token that only the Hub can verify.
        warnings.append(f"{place}.verified: is not imported, since only the Hub can check it")
    said = {**more, **dataset[1], "metric_config": metric.get("config"), "metric_args": metric.get("args")}
    return CardResult(dataset[0], found, value, dict(_parameters(said, place, warnings)))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _parameters(said: Mapping[str, Any], place: str, warnings: list[str]) -> Iterator[tuple[str, str]]:
    for key, value in sorted(said.items()):
        if value is None or value in ("", {}, []):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        if len(text) > MOST_LABEL_VALUE or "\0" in text:
            warnings.append(f"{place}: {key} is left out: it has more than {MOST_LABEL_VALUE} characters")
        else:
            yield key, text


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"
