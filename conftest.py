"""
Real servers for every test: PostgreSQL, Valkey and S3 from wheels, started when the first test asks for them.
"""

from __future__ import annotations

from collections import Counter

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
