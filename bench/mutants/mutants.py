"""
What is broken, where, and who notices.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: The repository.
TREE = Path(__file__).resolve().parents[2]
_FILE = Path(__file__).with_name("mutants.toml")


class UnfitError(Exception):
    """
    A mutant that cannot be applied, or whose tests are not there; the text says why.
    """


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    A change that breaks a promise.

    Args:
        name: of the mutant.
        breaks: the promise.
        file: which one it changes.
        find: what is replaced; it occurs once.
        replace: with what.
        tests: which notice, as pytest names them.
    """

    name: str
    breaks: str
    file: str
    find: str
    replace: str
    tests: Sequence[str]

    def applied(self, tree: Path) -> str:
        """
        The text of its file, changed.

        Args:
            tree: the folder of the repository.

        Raises:
            UnfitError: what it replaces is not there, or more than once.
        """
        text = (tree / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.find)) != 1:
            raise UnfitError(f"{self.name}: its text occurs {count} times in {self.file}: mend it in {_FILE.name}")
        return text.replace(self.find, self.replace)

    def check(self, tree: Path = TREE) -> None:
        """
        Whether it can be applied, and is a change of one line to something that compiles; and its tests are there.

        Raises:
            UnfitError: not so.
        """
        before, after = (tree / self.file).read_text(encoding="utf-8").splitlines(), self.applied(tree).splitlines()
        changed = [line for line, other in zip(before, after, strict=False) if line != other]
        if len(before) != len(after) or len(changed) != 1:
            raise UnfitError(f"{self.name} does not change one line")
        compile("\n".join(after), self.file, "exec")
        for test in self.tests:
            _check_test(self.name, test, tree)


def _check_test(name: str, test: str, tree: Path) -> None:
    file, *path = re.sub(r"\[.*\]$", "", test).split("::")
    if not (tree / file).is_file():
        raise UnfitError(f"{name}: there is no {file}")
    found: Sequence[ast.stmt] = ast.parse((tree / file).read_text(encoding="utf-8")).body
    for part in path:
        named = [node for node in found if getattr(node, "name", None) == part]
        if not named:
            raise UnfitError(f"{name}: there is no {part} in {file}")
        found = getattr(named[0], "body", [])


def mutants(only: str = "") -> list[Mutant]:
    """
    All of them.

    Args:
        only: patterns of names with commas between them; empty for all.

    Raises:
        UnfitError: a pattern fits none.
    """
    entries = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    found = [Mutant(name=name, **entry) for name, entry in entries.items()]
    patterns = [pattern.strip() for pattern in only.split(",") if pattern.strip()]
    for pattern in patterns:
        if not fnmatch.filter(entries, pattern):
            raise UnfitError(f"no mutant is called {pattern}")
    return [one for one in found if not patterns or any(fnmatch.fnmatch(one.name, each) for each in patterns)]
