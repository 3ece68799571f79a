"""
tools/check_language.py finds the phrases that the project does not use.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_language import found, load, main

RULES = load()


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("Give it a signed address.", 1, "signed address"),
        ("one\ntwo\nAT HOME, too", 3, "at home"),
        ("wraps at the near\nlevel of it", 1, "near level"),
        ("# is told\n# from a bug", 1, "is told # from"),
    ],
)
def test_a_planted_phrase_is_found(text: str, line: int, phrase: str) -> None:
    """
    In any case, at its line, also when it goes on in the next line or comment.
    """
    assert [(where, what) for where, what, _ in found(text, "page.md", RULES)] == [(line, phrase)]


def test_only_whole_words_count() -> None:
    """
    Part of a longer word is no phrase.
    """
    assert not list(found("unsigned address, a neat homestead: greenhouse rules", "page.md", RULES))


def test_every_phrase_matches_its_literal() -> None:
    """
    The quick look never hides a match: the literal of a phrase is in its pattern, and it has a replacement.
    """
    for phrase in RULES.phrases:
        assert phrase.literal in phrase.pattern.pattern
        assert phrase.replacement


def test_the_check_fails_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A file with a phrase fails, with the replacement; one without passes.
    """
    page = tmp_path / "page.md"
    page.write_text("A presigned URL.\nA signed address.\n", encoding="utf-8")
    assert main([str(page)]) == 1
    assert capsys.readouterr().out == f"{page}:2: signed address → presigned URL\n"
    page.write_text("A presigned URL.\n", encoding="utf-8")
    assert main([str(page)]) == 0
