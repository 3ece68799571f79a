"""
Which paths the files of a version may have.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.paths import clashes, fault, shown
from modelyard.transfer.partial_file import part_of
from tests.client.bad_paths import CLASHING, RIGHT, WRONG


@pytest.mark.parametrize("path", WRONG, ids=ascii)
def test_wrong(path: str) -> None:
    """
    What is not one file on every system, or is settings of a program, has a fault, which is told in one line.
    """
    assert WRONG[path] in fault(path)
    assert fault(path).isprintable()


@pytest.mark.parametrize("paths", CLASHING, ids=ascii)
def test_clashing(paths: tuple[str, ...]) -> None:
    """
    In whatever order they come, paths that cannot be in one folder are found, and the later one is to blame.
    """
    assert not any(map(fault, paths))
    for order in itertools.permutations(paths):
        found = clashes(order)
        assert CLASHING[paths] in found[0].reason
        assert all(clash.other < clash.place < len(order) for clash in found)


def test_right(tmp_path: Path) -> None:
    """
    Nothing is refused that every system can have: as many files are there as were written.
    """
    assert [path for path in RIGHT if fault(path)] == []
    assert clashes(RIGHT) == []
    for path in RIGHT:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == len(RIGHT)


@given(st.lists(st.text("aAbB/éE\u0301", min_size=1, max_size=6), max_size=6))
def test_clashes_are_those_of_a_slow_look(paths: list[str]) -> None:
    """
    There is a clash exactly when two paths, or two beginnings of them, are one name to some system and not to all.
    """

    def key(text: str) -> str:
        return unicodedata.normalize("NFD", text).casefold()

    names: dict[str, set[str]] = {}
    files = [key(path) for path in paths]
    folders = set()
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            names.setdefault(key("/".join(parts[:depth])), set()).add("/".join(parts[:depth]))
        folders |= {key("/".join(parts[:depth])) for depth in range(1, len(parts))}
    expected = (
        len(files) > len(set(files)) or not folders.isdisjoint(files) or any(len(each) > 1 for each in names.values())
    )
    assert bool(clashes(paths)) == expected


@given(st.text(max_size=40))
def test_what_is_right_can_be_written(path: str) -> None:
    """
    Whatever has no fault encodes, stays inside, and has a name that its download does not have.
    """
    if not fault(path):
        assert os.fsencode(path).decode() == path
        assert os.path.normpath(path) == path
        assert not path.startswith(("/", ".."))
        assert "interrupted download" in fault(part_of(Path(path), "0" * 64).name)


@given(st.text(st.characters(exclude_categories=())))
def test_shown(text: str) -> None:
    """
    Whatever is shown is one line of printable characters, and printable text stays as it is.
    """
    assert shown(text).isprintable()
    assert shown("词表 ß.txt") == "词表 ß.txt"
