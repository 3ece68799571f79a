"""
What `make quick` runs for which change.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.affected import affected, rank

_TREE = {
    "services/a/store.py": "",
    "services/a/other.py": "",
    "services/a/tests/test_store.py": "from services.a import store",
    "services/a/tests/test_rest.py": "",
    "services/a/tests/helper.py": "",
    "services/b/rules.py": "",
    "services/b/tests/conftest.py": "import services.b.rules",
    "services/b/tests/test_rules.py": "",
    "modelyard/client.py": "",
    "tests/client/test_pull.py": "",
    "tests/end_to_end/operations/test_pages.py": "",
    "docs/page.md": "",
}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("services/a/store.py", {"services/a/tests/test_store.py"}),
        ("services/a/other.py", {"services/a/tests"}),
        ("services/a/tests/test_rest.py", {"services/a/tests/test_rest.py"}),
        ("services/a/tests/helper.py", {"services/a/tests"}),
        ("services/a/tests/test_deleted.py", set()),
        ("services/b/rules.py", {"services/b/tests"}),
        ("modelyard/client.py", {"tests/client"}),
        ("docs/page.md", {"tests/end_to_end/operations/test_pages.py"}),
        ("LICENSE", set()),
    ],
)
def test_affected(tmp_path: Path, name: str, wanted: set[str]) -> None:
    """
    A changed module affects the tests that import it, by a helper those of the helper's folder, and where none does
    those of its package.
    """
    for path, text in _TREE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert affected([name], tmp_path) == wanted


def test_the_most_relevant_tests_come_first() -> None:
    """
    Tests that are named like a changed module, then those of its package, then others.
    """
    changed = ["services/a/store/pins.py"]
    assert rank("services/a/tests/test_pins_of_versions.py", changed) == 0
    assert rank("services/a/tests/test_rest.py", changed) == 1
    assert rank("services/b/tests/test_pins.py", changed) == 2
