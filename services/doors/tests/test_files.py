"""
Files as trees.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from services.doors.model.files import File, Tree

PATHS = [
    "README",
    "a-b/c",
    "a/b",
    "b/c/d",
    "b/c/e/f",
    "b/g",
    "b-/h",
    "z/1/2/3",
    "z/1/4",
    "zz",
    "\U0010ffffa/\U0010ffffb",
]


def tree(paths: list[str]) -> Tree:
    return Tree.of(File(path, "0" * 64, 1, "") for path in paths)


class Counted(list[File]):
    """
    Files that count how many of them were read.
    """

    read = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.read += len(found) if isinstance(at, slice) else 1
        return found


@pytest.mark.parametrize("folder", ["", "b", "z", "z/1", "\U0010ffffa"])
@pytest.mark.parametrize("recursive", [True, False])
def test_a_list_goes_on_after_each_of_its_entries(folder: str, recursive: bool) -> None:
    """
    From the path of any entry, a list goes on with the one after it, be it a file or a folder.
    """
    files = tree(PATHS)
    whole = list(files.entries(folder, recursive=recursive))
    assert len({str(entry["path"]) for entry in whole}) == len(whole)
    for at, entry in enumerate(whole):
        assert list(files.entries(folder, recursive=recursive, after=str(entry["path"]))) == whole[at + 1 :]


def test_a_list_has_every_folder_once() -> None:
    """
    A recursive list has all files and every folder above them; another the ones of its level.
    """
    files = tree(PATHS)
    folders = {path.rsplit("/", depth)[0] for path in PATHS for depth in range(1, path.count("/") + 1)}
    found = [str(entry["path"]) for entry in files.entries("", recursive=True)]
    assert sorted(found) == sorted([*PATHS, *folders])
    assert [str(entry["path"]) for entry in files.entries("b", recursive=False)] == ["b/c", "b/g"]


@pytest.mark.parametrize("recursive", [True, False])
def test_a_page_reads_no_more_than_it_shows(recursive: bool) -> None:
    """
    A page late in a large tree costs what its entries cost, and not what is before it or in the folders that it names.
    """
    files = Counted(tree([f"{folder:02}/{number:03}" for folder in range(50) for number in range(100)]).files)
    large = Tree(files)
    assert large.is_folder("40")
    files.read = 0
    page = list(islice(large.entries("", recursive=recursive, after="40"), 5))
    assert page[-1]["path"] == ("40/004" if recursive else "45")
    assert large.folder_entry("07")["path"] == "07"
    assert large.is_folder("09")
    assert files.read < 30
