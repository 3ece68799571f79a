"""
The timm leaderboard as batches of an import: models, one version of each, and their results.

The CSV files and where they come from are described in examples/timm/README.md.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from modelyard.registry.v1 import evaluations_pb2, imports_pb2, models_pb2, versions_pb2


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One entry of the leaderboard: weights, measured at one input size.

    Args:
        model: the entry's id, usable as a model id.
        weights: the name in timm, ``architecture.pretrain_tag``.
        architecture: the part before the dot.
        pretrain_tag: the part after it: who trained it, how and on what.
        pretrain: what timm's metadata says of the architecture's first weights ("in1k", "in21k"); empty if nothing.
        parameter_count: how many parameters, to four digits or so.
        img_size: the side of the square input, in pixels.
        crop_pct: the part of the image that is left after cropping.
        interpolation: how images were resized.
    """

    model: str
    weights: str
    architecture: str
    pretrain_tag: str
    pretrain: str
    parameter_count: int
    img_size: int
    crop_pct: float
    interpolation: str


@dataclass(frozen=True, slots=True)
class Result:
    """
    One measured number, in percent.
    """

    model: str
    dataset: str
    metric: str
    value: float


def read_entries(folder: Path) -> list[Entry]:
    """
    The entries in *folder*/models.csv.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with (folder / "models.csv").open(encoding="utf-8", newline="") as file:
        return [_entry(row) for row in csv.DictReader(file)]


def read_results(folder: Path) -> list[Result]:
    """
    The results in *folder*/results.csv.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return [result for row in csv.DictReader(file) for result in _results(row)]


def batches(
    folder: Path, parent: str, *, size: int = 100, skip_existing: bool = False
) -> Iterator[imports_pb2.ImportModelsRequest]:
    """
    The whole leaderboard as requests of ImportModels.

    Args:
        folder: where the two CSV files are.
        parent: the namespace, ``namespaces/{namespace}``.
        size: models in a batch, at most 1,000.
        skip_existing: leave models that exist as they are.
    """
    results: dict[str, list[Result]] = {}
    for result in read_results(folder):
        results.setdefault(result.model, []).append(result)
    entries = iter(read_entries(folder))
    while batch := list(islice(entries, size)):
        items = [to_item(entry, results.get(entry.model, [])) for entry in batch]
        yield imports_pb2.ImportModelsRequest(parent=parent, items=items, skip_existing=skip_existing)


def to_item(entry: Entry, results: list[Result]) -> imports_pb2.ImportModelsRequest.Item:
    """
    One entry as a model with one version and that version's results.
    """
    settings = {
        "img_size": str(entry.img_size),
        "crop_pct": f"{entry.crop_pct:g}",
        "interpolation": entry.interpolation,
    }
    evaluations = [
        evaluations_pb2.Evaluation(
            version="1", dataset=result.dataset, metric=result.metric, value=result.value, parameters=settings
        )
        for result in results
    ]
    version = versions_pb2.Version(description=f"The weights {entry.weights} of timm", labels=settings)
    return imports_pb2.ImportModelsRequest.Item(
        model_id=entry.model, model=_model(entry), versions=[version], evaluations=evaluations
    )


def _model(entry: Entry) -> models_pb2.Model:
    words = f"{entry.architecture} {entry.pretrain_tag}".replace("_", " ")
    labels = {
        "source": "timm",
        "weights": entry.weights,
        "architecture": entry.architecture,
        "pretrain_tag": entry.pretrain_tag,
    }
    if entry.pretrain:
        labels["pretrain"] = entry.pretrain
    return models_pb2.Model(
        display_name=words,
        description=f"{words}: an image classifier of timm, measured on ImageNet at {entry.img_size} pixels.",
        task="image-classification",
        framework="pytorch",
        labels=labels,
        parameter_count=entry.parameter_count,
    )


def _entry(row: dict[str, str]) -> Entry:
    return Entry(
        model=row["model"],
        weights=row["weights"],
        architecture=row["architecture"],
        pretrain_tag=row["pretrain_tag"],
        pretrain=row["pretrain"],
        parameter_count=int(row["parameter_count"]),
        img_size=int(row["img_size"]),
        crop_pct=float(row["crop_pct"]),
        interpolation=row["interpolation"],
    )


def _results(row: dict[str, str]) -> Iterator[Result]:
    model = row.pop("model")
    for column, value in row.items():
        dataset, _, metric = column.partition(":")
        if value:
            yield Result(model, dataset, metric, float(value))
