"""
Find phrases that the project does not use: `python tools/check_language.py [FILE …]`.

The list is tools/forbidden-phrases.toml; docs/glossary.md has the terms. Prints `file:line: phrase → replacement`
and exits with 1 when it finds any. Without files, every tracked text file is checked.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHRASES = ROOT / "tools" / "forbidden-phrases.toml"
#: A space of a phrase also matches a line break, with the comment sign of the next line.
_GAP = r"\s+(?:(?:#:?|//|--|\*|>)\s+)?"


@dataclass(frozen=True, slots=True)
class Phrase:
    """
    A phrase to avoid.

    Args:
        pattern: Matches it in text in lower case; the neighbouring characters have to be checked for word boundaries.
        literal: A text that every match contains, for a quick look.
        replacement: What to write instead.
        allowed: Globs of paths where it may stay.
    """

    pattern: re.Pattern[str]
    literal: str
    replacement: str
    allowed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """
    The phrases, and globs of files that are never checked.
    """

    phrases: tuple[Phrase, ...]
    skipped: tuple[str, ...]


def load(path: Path = PHRASES) -> Rules:
    """
    Read the list.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return Rules(tuple(map(_phrase, content["phrases"])), tuple(content["skip"]))


def _phrase(entry: dict[str, str]) -> Phrase:
    find = entry["find"]
    # The longest word outside of groups and not before a quantifier is part of every match.
    plain = re.sub(r"\([^()]*\)[?*]?|\w[?*]", " ", find)
    literal = max(re.findall(r"[\w'-]+", plain), key=len)
    pattern = re.compile(find.replace(" ", _GAP))
    return Phrase(pattern, literal, entry["write"], tuple(entry.get("allow", ())))


def found(text: str, name: str, rules: Rules) -> Iterator[tuple[int, str, str]]:
    """
    Yield line, phrase and replacement of each match in a file's text.
    """
    lower = text.lower()
    for phrase in rules.phrases:
        if phrase.literal not in lower or any(fnmatch(name, glob) for glob in phrase.allowed):
            continue
        for match in phrase.pattern.finditer(lower):
            before, after = lower[match.start() - 1 : match.start()], lower[match.end() : match.end() + 1]
            if not re.match(r"\w", before) and not re.match(r"\w", after):
                yield lower.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), phrase.replacement


def files(rules: Rules) -> list[str]:
    """
    The tracked files that are checked, relative to the root.
    """
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in tracked.split("\0") if name and not any(fnmatch(name, glob) for glob in rules.skipped)]


def main(arguments: list[str]) -> int:
    """
    Check files, print what was found, and return the exit code.
    """
    parser = argparse.ArgumentParser(description="Find phrases that the project does not use.")
    parser.add_argument("files", nargs="*", help="check these files only")
    given = parser.parse_args(arguments)
    rules, count = load(), 0
    for name in given.files or files(rules):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # binary, or deleted and not committed yet
        for line, phrase, replacement in found(text, name, rules):
            print(f"{name}:{line}: {phrase} → {replacement}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
