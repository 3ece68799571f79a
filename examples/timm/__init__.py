"""
The public timm leaderboard, as data of this checkout (README.md says where it comes from).

Example:
    for request in timm.batches("namespaces/default"):
        ...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelyard.cli import timm as loader
from modelyard.cli.timm import Entry, Result
from modelyard.registry.v1.imports_pb2 import ImportModelsRequest

FOLDER = Path(__file__).parent

__all__ = ["FOLDER", "Entry", "Result", "batches", "entries", "results"]


def entries() -> list[Entry]:
    """
    The 1,556 entries of the leaderboard.
    """
    return loader.read_entries(FOLDER)


def results() -> list[Result]:
    """
    Their results: top-1 and top-5 on six test sets.
    """
    return loader.read_results(FOLDER)


def batches(parent: str, *, size: int = 100, skip_existing: bool = False) -> Iterator[ImportModelsRequest]:
    """
    All of it as requests of ImportModels.

    Args:
        parent: the namespace, ``namespaces/{namespace}``.
        size: models in a batch, at most 1,000.
        skip_existing: leave models that exist as they are.
    """
    return loader.batches(FOLDER, parent, size=size, skip_existing=skip_existing)
