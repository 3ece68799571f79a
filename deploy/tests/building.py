"""
Overlays that are built once per test run, by whichever worker process needs them first.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from typing import TypeVar

import pytest

from deploy.checks.building import NoKustomizeError

_T = TypeVar("_T")


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[], _T]) -> _T:
    """
    The result of *build*, from the shared folder of the run if another worker has it there already.

    Args:
        factory: of this worker.
        name: identifies the result in this run.
        build: its result can be pickled. Without Kustomize the test is skipped.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # That of a worker is a folder in that of the run.
        folder = folder.parent
    file = folder / f"{name}.pickle"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            try:
                result = build()
            except NoKustomizeError as error:
                pytest.skip(str(error))
            file.write_bytes(pickle.dumps(result))
        found: _T = pickle.loads(file.read_bytes())  # noqa: S301 - this run's own file
    return found
