"""
Real servers for every test: PostgreSQL, Valkey and S3 from wheels, started when the first test asks for them.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

pytest_plugins = ["embedded.testing"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Among several processes the files with the fewest tests come first: theirs take the longest, and the last file of a
    run, which the other processes wait for, should be a short one.
    """
    if hasattr(config, "workerinput"):
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: tests[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """
    Collect without the garbage collector, and let it leave out afterwards what was made: thousands of tests and all
    modules, which stay until the end. Afterwards it runs less often than by default, which half its time was.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)


_died = pytest.StashKey[bool]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """
    Remember that a worker process died: the tests that it had still to run were not run by anybody.
    """
    if error:
        node.config.stash[_died] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """
    End with exit code 2, "interrupted", when a worker process died.
    """
    if session.config.stash.get(_died, False):
        session.exitstatus = pytest.ExitCode.INTERRUPTED
