"""
Makes models.csv and results.csv from the published results of timm: `python -m examples.timm.build FOLDER`.

FOLDER holds results-*.csv and model_metadata-in1k.csv from the folder `results` of huggingface/pytorch-image-models
(see README.md for the commit). Only facts are taken over: names, sizes, settings, accuracies.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

#: Data sets as the registry names them, and the files with the results on them. The first one says which models exist.
SOURCES = {
    "imagenet": "results-imagenet.csv",
    "imagenet-real": "results-imagenet-real.csv",
    "imagenetv2-matched-frequency": "results-imagenetv2-matched-frequency.csv",
    "imagenet-a": "results-imagenet-a.csv",
    "imagenet-r": "results-imagenet-r.csv",
    "imagenet-sketch": "results-sketch.csv",
}
METRICS = ("top1", "top5")
MODEL_COLUMNS = (
    "model", "weights", "architecture", "pretrain_tag", "pretrain",
    "parameter_count", "img_size", "crop_pct", "interpolation",
)  # fmt: skip

Row = Mapping[str, str]
#: What timm measures: weights at an input size.
Key = tuple[str, str]


def build(source: Path, target: Path) -> None:
    """
    Write models.csv and results.csv into *target*.

    Args:
        source: the folder with timm's files.
        target: an existing folder.

    Raises:
        FileNotFoundError: one of timm's files is missing.
    """
    tables = {dataset: _by_key(source / file) for dataset, file in SOURCES.items()}
    pretrain = {row["model"]: row["pretrain"] for row in _read(source / "model_metadata-in1k.csv")}
    entries = tables["imagenet"]
    ids = _ids(entries)
    keys = sorted(entries, key=ids.__getitem__)
    _write(target / "models.csv", MODEL_COLUMNS, (_model(ids[key], entries[key], pretrain) for key in keys))
    columns = ["model", *(f"{dataset}:{metric}" for dataset in SOURCES for metric in METRICS)]
    _write(target / "results.csv", columns, ([ids[key], *_results(key, tables)] for key in keys))


def _ids(entries: Mapping[Key, Row]) -> dict[Key, str]:
    # 290 of the weights are listed at a second input size. The better entry comes first and keeps the plain name.
    ids: dict[Key, str] = {}
    taken: set[str] = set()
    for name, size in sorted(entries, key=lambda key: (-Decimal(entries[key]["top1"]), -int(key[1]))):
        ids[name, size] = f"{name}-r{size}" if name in taken else name
        taken.add(name)
    return ids


def _model(model: str, row: Row, pretrain: Mapping[str, str]) -> list[str]:
    architecture, _, tag = row["model"].partition(".")
    parameters = Decimal(row["param_count"].replace(",", "")) * 1_000_000
    settings = [row["img_size"], _short(row["crop_pct"]), row["interpolation"]]
    return [model, row["model"], architecture, tag, pretrain.get(architecture, ""), str(int(parameters)), *settings]


def _results(key: Key, tables: Mapping[str, Mapping[Key, Row]]) -> Iterator[str]:
    for table in tables.values():
        row = table.get(key, {})
        yield from (_short(row.get(metric, "")) for metric in METRICS)


def _short(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def _by_key(path: Path) -> dict[Key, Row]:
    return {(row["model"], row["img_size"]): row for row in _read(path)}


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    The command line: returns the exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m examples.timm.build", description="Make the CSV files from timm's."
    )
    parser.add_argument("source", type=Path, help="the folder `results` of huggingface/pytorch-image-models")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent, help="where to write (this folder)")
    given = parser.parse_args(arguments)
    try:
        build(given.source, given.target)
    except FileNotFoundError as error:
        print(f"{error.filename} is missing: is {given.source} the folder `results` of timm?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
