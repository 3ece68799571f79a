"""
The test files that changes since the main branch affect: what `make quick` runs.

A test file is affected when it has changed, or when it imports a module that has changed (itself, or through a helper
or a fixture of its own folder). Where no test file imports a changed module, all tests of its package are affected. It
is a guess for a quick answer, and `make test` runs everything.

The tests have `SECONDS` of time, the most relevant ones first; those that are left are skipped, and counted in the
summary. This module is the pytest plugin for that.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
_MAIN = ("origin/HEAD", "main", "master")
# Where the tests of a package are that has none beside its source.
_ELSEWHERE = {"modelyard": "tests/client"}
_PAGES = "tests/end_to_end/operations/test_pages.py"
#: Files that every test depends on: for those there is `make test`.
_EVERYWHERE = {"conftest.py", "embedded/testing.py"}
#: For the tests; the rest of a minute is for lint, types, imports and collecting.
SECONDS = 35
# The changed files, for the plugin in the processes that run tests.
_CHANGED = "MODELYARD_QUICK_CHANGED"


def changed(root: Path = ROOT) -> set[str]:
    """
    The files that were changed, added or deleted since the merge base with the main branch, committed or not.
    """
    base = next(filter(None, (_git(root, "merge-base", "HEAD", main) for main in _MAIN)), "HEAD")
    found = _git(root, "diff", "--name-only", base.strip()) + _git(root, "ls-files", "--others", "--exclude-standard")
    return set(found.splitlines())


def affected(files: Iterable[str], root: Path = ROOT) -> set[str]:
    """
    Args:
        files: that were changed, relative to *root*.
        root: of the tree.

    Returns:
        Test files and folders of tests, relative to *root*.
    """
    found: set[str] = set()
    imports = {path: _imports(root / path) for path in _sources(root)}
    for name in set(files) - _EVERYWHERE:
        path = PurePosixPath(name)
        if path.suffix == ".md":
            found.add(_PAGES)
        elif path.parts[0] in _PACKAGES:
            found |= _of(path, imports, root)
    return {each for each in found if (root / each).exists()}


def _of(path: PurePosixPath, imports: dict[str, set[str]], root: Path) -> set[str]:
    if path.name.startswith("test_"):
        return {str(path)}
    importers = {name for name, modules in imports.items() if path.suffix == ".py" and _module(path) in modules}
    # A helper or a fixture file stands for the tests of its folder.
    tests = {name for name in importers if _is_test(name)}
    folders = {str(PurePosixPath(name).parent) for name in importers if _is_helper(name)}
    own = [str(folder / "tests") for folder in path.parents if (root / folder / "tests").is_dir()]
    if "tests" in path.parts:
        return tests | folders or {str(path.parent)}
    return tests | folders or {own[0] if own and own[0] != "tests" else _ELSEWHERE.get(path.parts[0], "")} - {""}


def _sources(root: Path) -> Iterator[str]:
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if "tests" in path.relative_to(root).parts:
                yield str(path.relative_to(root))


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _module(path: PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_test(name: str) -> bool:
    return PurePosixPath(name).name.startswith("test_")


def _is_helper(name: str) -> bool:
    return not _is_test(name)


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False).stdout


def rank(test: str, files: Iterable[str]) -> int:
    """
    How relevant a test file is: 0 when it is named like a changed module of its package, 1 when its package has
    changed, 2 otherwise.

    Args:
        test: the file, relative to the root.
        files: that were changed.
    """
    package = [PurePosixPath(name) for name in files if _package(name) == _package(test)]
    if any(path.stem in PurePosixPath(test).stem for path in package):
        return 0
    return 1 if package else 2


def _package(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    return parts[:2] if parts[0] == "services" else parts[:1]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    The most relevant files first.
    """
    files = os.environ.get(_CHANGED, "").splitlines()
    items.sort(key=lambda item: rank(item.path.relative_to(config.rootpath).as_posix(), files))


@cache
def _began() -> float:
    return time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """
    Skip what is left `SECONDS` after this process began with its first test.
    """
    if time.monotonic() - _began() > SECONDS and _CHANGED in os.environ:
        pytest.skip(f"the {SECONDS} seconds of `make quick` are over; `make unit` runs it")


def main() -> int:
    """
    Run the affected tests, without those that need the machine or a suite of their own, for `SECONDS`.

    Returns:
        The exit code.
    """
    files = sorted(changed())
    found = sorted(affected(files))
    if not found:
        print("No tests are affected.")  # noqa: T201
        return 0
    print(f"Affected: {' '.join(found)}", flush=True)  # noqa: T201
    command = [sys.executable, "-m", "pytest", "-p", "tests.affected", "--quiet", "-n", "2", "--no-loadscope-reorder"]
    environment = {**os.environ, _CHANGED: "\n".join(files)}
    done = subprocess.run(
        [*command, "-m", "not own_suite and not drill", *found], cwd=ROOT, env=environment, check=False
    )
    # 5: all of them are deselected.
    return 0 if done.returncode == 5 else done.returncode


if __name__ == "__main__":
    sys.exit(main())
