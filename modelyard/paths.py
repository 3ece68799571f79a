"""
Validation of the paths of a version's files: each must name one file on Linux, macOS and Windows, and must not be the
settings of a tool.

The registry validates writes, push the files of a folder, pull the files of a version. Imports the standard library
only: the registry's model depends on it (ADR 0031).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

#: In UTF-8. PATH_MAX of macOS is 1,024: this leaves 256 for the folder that a version is pulled into.
MOST_BYTES = 768
#: Folders and the file. Some systems, and many programs, follow no path that is hundreds of folders deep.
MOST_PARTS = 32
#: Of a part in UTF-8: NAME_MAX of Linux. macOS and Windows count 255 UTF-16 units, which is never less.
MOST_PART_BYTES = 255

_SHOWN = 200
# Length at which a part is cut in errors: services return 256 bytes per field.
_QUOTED = 32
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\]')
# C0, DEL and C1 control characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# With any extension: NUL.txt is NUL. ("Naming Files, Paths, and Namespaces", Microsoft.)
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³]) *(\..*)?", re.DOTALL)
# Characters that HFS+ ignores when it compares names: git's utf8.c, next_hfs_char.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# Git, Mercurial, Sapling, Jujutsu, Subversion and Bazaar execute what is configured there. On NTFS, .git has the short
# name GIT~1.
_REPOSITORY = re.compile(r"(\.(git|hg|sl|jj|svn|bzr)|(git|hg|sl|jj|svn|bzr)~[0-9]+)")
# The contents of a bare git repository.
_BARE = ("head", "objects", "refs")
# Partial files of downloads and their recorded ranges: transfer/partial_file.py.
_DOWNLOAD = re.compile(r"\..*\.[0-9a-f]{16}\.part(\.ranges(\.new)?)?", re.DOTALL | re.IGNORECASE)
_OWN = ".modelyard"


def fault(path: str) -> str:
    """
    The reason why *path* is invalid, and what to do; empty if it is valid.
    """
    if not path:
        return "is empty: a file has a name"
    if _SURROGATE.search(path):
        return "is not UTF-8: rename it"
    if (size := len(path.encode())) > MOST_BYTES:
        return f"has {size:,} bytes in UTF-8, and may have {MOST_BYTES}: shorten it"
    parts = path.split("/")
    if len(parts) > MOST_PARTS:
        return f"is {len(parts):,} parts deep, and may be {MOST_PARTS}: put it into fewer folders"
    return next((reason for reason in map(_part_fault, parts) if reason), "")


# The files of a version share their folders.
@lru_cache(4096)
def _part_fault(part: str) -> str:
    if part in {"", ".", ".."}:
        return 'must be relative, with forward slashes and no empty, "." or ".." parts'
    if found := _CONTROL.search(part):
        return f'has a control character (U+{ord(found[0]):04X}) in "{_quoted(part)}": {_renamed(part)}'
    # Before the characters: "a:b" in .git:b is a stream of the folder .git on NTFS.
    if is_repository(part):
        return f'has the part "{_quoted(part)}", where a version control system keeps its settings: leave it out'
    if found := _NOT_ON_WINDOWS.search(part):
        return f'has a {found[0]} in "{_quoted(part)}", which no name has on Windows: {_renamed(part)}'
    if part[-1] in " .":
        return f'has a space or a dot at the end of "{_quoted(part)}", which Windows takes away: {_renamed(part)}'
    if _DEVICE.fullmatch(part.lower()):
        return f'has the part "{_quoted(part)}", which is a device on Windows: {_renamed("_" + part)}'
    if (size := len(part.encode())) > MOST_PART_BYTES:
        return f'has {size:,} bytes in "{_quoted(part)}", and a name may have {MOST_PART_BYTES}: shorten it'
    if is_download(part):
        return f'has the part "{_quoted(part)}", which an interrupted download leaves: download again, or delete it'
    if _key(part).startswith(_OWN):
        return f'has the part "{_quoted(part)}": names that begin with {_OWN} are kept for its own files: rename it'
    return ""


def _renamed(part: str) -> str:
    other = _NOT_ON_WINDOWS.sub("_", _CONTROL.sub("_", part)).rstrip(" .")
    return f'rename it, such as to "{shown(other)}"' if 0 < len(other) <= _QUOTED else "rename it"


def _quoted(text: str) -> str:
    return shown(text, _QUOTED)


def is_repository(part: str) -> bool:
    """
    Whether some file system treats *part* as the folder of a version control system.
    """
    # NTFS strips trailing dots and spaces, and a colon starts the name of a stream.
    return _REPOSITORY.fullmatch(_key(part).partition(":")[0].rstrip(" .")) is not None


def is_download(part: str) -> bool:
    """
    Whether a file of this name was left by an interrupted download.
    """
    return _DOWNLOAD.fullmatch(part) is not None


def _key(text: str) -> str:
    """
    A key that is equal for names that some file system treats as equal: HFS+, APFS and NTFS ignore case, the first two
    also Unicode normalization, HFS+ also invisible characters.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", _IGNORED.sub("", text)).casefold())


@dataclass(frozen=True, slots=True)
class Clash:
    """
    Two paths of one version that cannot both be files of one folder.

    Args:
        place: index of the later path.
        other: index of the earlier path.
        reason: why they clash, and what to do.
    """

    place: int
    other: int
    reason: str


def clashes(paths: Sequence[str]) -> list[Clash]:
    """
    The clashes among *paths*, by index: duplicates, a file that is the folder of another one, paths that some systems
    treat as equal, and paths that make a folder a bare git repository.
    """
    # Clashing paths are neighbours in this order, since neighbours share the longest prefixes: the prefixes of 10,000
    # paths need not be stored.
    parts = [(_key(path).split("/"), path.split("/"), place) for place, path in enumerate(paths)]
    parts.sort()
    found = []
    for (key, here, place), (next_key, there, next_place) in pairwise(parts):
        if reason := _clash(key, here, next_key, there):
            found.append(Clash(max(place, next_place), min(place, next_place), reason))
    found.extend(_bare(parts))
    return sorted(found, key=lambda each: (each.place, each.other))


def _clash(key: list[str], here: list[str], next_key: list[str], there: list[str]) -> str:
    same = next((depth for depth, pair in enumerate(zip(key, next_key, strict=False)) if pair[0] != pair[1]), None)
    depth = min(len(key), len(next_key)) if same is None else same
    if here[:depth] != there[:depth]:
        one, two = next(pair for pair in zip(here, there, strict=False) if pair[0] != pair[1])
        return (
            f'"{_quoted(one)}" and "{_quoted(two)}" differ in case or in the form of Unicode only: many systems take '
            "them for one name; rename one"
        )
    if same is not None:
        return ""
    name = shown("/".join(here), 2 * _QUOTED)
    if len(key) == len(next_key):
        return f'"{name}" is there twice: give each file a path of its own'
    return f'"{name}" is a file and a folder: rename one'


def _bare(parts: list[tuple[list[str], list[str], int]]) -> Iterator[Clash]:
    # By folder: the names below it that belong to a bare repository, each with the index of one path.
    seen: dict[tuple[str, ...], dict[str, int]] = {}
    for key, _, place in parts:
        for depth, part in enumerate(key):
            if part in _BARE:
                seen.setdefault(tuple(key[:depth]), {}).setdefault(part, place)
    for names in seen.values():
        if len(names) == len(_BARE):
            place = max(names.values())
            yield Clash(
                place,
                min(names.values()),
                "HEAD, objects and refs make the folder a repository of git, whose settings it runs: rename one",
            )


def shown(text: str, most: int = _SHOWN) -> str:
    """
    *text* as one line without control characters: unprintable ones are escaped, and it is cut after *most* characters.
    """
    text = text if len(text) <= most else f"{text[:most]}…"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    # A byte that is not UTF-8 is a lone surrogate in Python.
    number = ord(sign)
    return (
        f"\\x{number & 0xFF:02x}"
        if 0xDC80 <= number <= 0xDCFF
        else sign.encode("unicode_escape", "surrogatepass").decode()
    )
