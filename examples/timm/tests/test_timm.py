"""
The leaderboard in this checkout is whole, and its script makes it.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from examples import timm
from examples.timm.build import SOURCES, build, main

SOURCE = Path(__file__).resolve().parents[4] / "shared" / "data" / "timm"


def test_every_entry_is_there_once_under_a_valid_id() -> None:
    """
    1,556 entries of 1,266 weights, whose ids the registry accepts.
    """
    entries = timm.entries()
    assert len({entry.model for entry in entries}) == len(entries) == 1556
    assert len({entry.weights for entry in entries}) == 1266
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", entry.model) for entry in entries)
    assert all(entry.weights == f"{entry.architecture}.{entry.pretrain_tag}" for entry in entries)


def test_every_entry_has_its_results() -> None:
    """
    Two metrics on six test sets for each entry; ImageNet-A lacks one entry in the source.
    """
    counts = Counter(result.dataset for result in timm.results())
    assert counts == {dataset: 2 * (1555 if dataset == "imagenet-a" else 1556) for dataset in SOURCES}
    assert all(0 <= result.value <= 100 for result in timm.results())


def test_numbers_are_those_of_the_source() -> None:
    """
    Numbers with a thousands separator, such as "1,013.01" million parameters, and a second input size come through.
    """
    entries = {entry.model: entry for entry in timm.entries()}
    results = {(result.model, result.dataset, result.metric): result.value for result in timm.results()}
    giant = entries["eva_giant_patch14_336.clip_ft_in1k"]
    assert (giant.parameter_count, giant.img_size, giant.crop_pct) == (1_013_010_000, 336, 1.0)
    assert results["eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", "imagenet", "top1"] == 90.056
    assert entries["convnext_xlarge.fb_in22k_ft_in1k"].img_size == 288
    assert entries["convnext_xlarge.fb_in22k_ft_in1k-r224"].img_size == 224
    assert results["convnext_xlarge.fb_in22k_ft_in1k-r224", "imagenet-a", "top1"] == 63.787


def test_batches_carry_everything() -> None:
    """
    The requests hold each entry as a model with one version, and all of its results.
    """
    requests = list(timm.batches("namespaces/default", size=500))
    items = [item for request in requests for item in request.items]
    assert [len(request.items) for request in requests] == [500, 500, 500, 56]
    assert sum(len(item.evaluations) for item in items) == len(timm.results())
    assert all(len(item.versions) == 1 and item.model.parameter_count > 0 for item in items)
    assert {request.parent for request in requests} == {"namespaces/default"}


@pytest.mark.skipif(not SOURCE.is_dir(), reason="timm's own files are not beside this checkout (shared/data/timm)")
def test_the_script_makes_the_files(tmp_path: Path) -> None:
    """
    build.py gives the committed files, byte for byte.
    """
    build(SOURCE, tmp_path)
    for name in ("models.csv", "results.csv"):
        assert (tmp_path / name).read_bytes() == (timm.FOLDER / name).read_bytes(), name


def test_a_missing_source_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Without the source the script says which file is missing, and changes nothing.
    """
    assert main([str(tmp_path), "--target", str(tmp_path)]) == 1
    assert "results-imagenet.csv is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
