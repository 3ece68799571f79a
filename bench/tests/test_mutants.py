from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.mutants.mutants import Mutant, UnfitError, mutants

ALL = mutants()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_every_mutant_applies(mutant: Mutant) -> None:
    """
    The text of a mutant occurs exactly once in its file, one line of it changes to something that compiles, and the
    tests that notice it are there.
    """
    mutant.check()


def test_what_they_cover() -> None:
    """
    Every part of the system whose promises matter has some, no two of them the same change.
    """
    areas = Counter("/".join(mutant.file.split("/")[:2]) for mutant in ALL)
    for area, least in {"cache": 10, "ledger": 5, "registry": 8, "cdn": 6, "chassis": 6}.items():
        assert areas[f"services/{area}"] >= least, area
    assert len({(mutant.file, mutant.find, mutant.replace) for mutant in ALL}) == len(ALL)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    """
    A text that is gone or there twice, a change of more than a line, and a test that is not there are told.
    """
    (tmp_path / "code.py").write_text("a = 1\nb = 1\n", encoding="utf-8")
    (tmp_path / "test_code.py").write_text("def test_a() -> None: ...\n", encoding="utf-8")
    Mutant("good", "", "code.py", "a = 1", "a = 2", ["test_code.py::test_a[x]"]).check(tmp_path)
    for mutant in (
        Mutant("gone", "", "code.py", "c = 1", "c = 2", []),
        Mutant("twice", "", "code.py", "= 1", "= 2", []),
        Mutant("longer", "", "code.py", "a = 1", "a = 2\nc = 3", []),
        Mutant("nothing", "", "code.py", "a = 1", "a = 1", []),
        Mutant("no test", "", "code.py", "a = 1", "a = 2", ["test_code.py::test_b"]),
        Mutant("no file", "", "code.py", "a = 1", "a = 2", ["test_other.py::test_a"]),
    ):
        with pytest.raises(UnfitError, match=mutant.name):
            mutant.check(tmp_path)
    with pytest.raises(UnfitError, match="no mutant is called none"):
        mutants("none")
