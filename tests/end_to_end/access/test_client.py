"""
How the client gets its token.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import modelyard
from modelyard._channel import Session
from modelyard._token import TokenFile


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """
    The next call carries the new token; while the file is away it carries the last one.
    """
    file = tmp_path / "token"
    file.write_text("one\n")
    session = Session(TokenFile(file), None)
    assert ("authorization", "Bearer one") in session.metadata("/a.B/C", None)
    file.write_text("another\n")
    assert ("authorization", "Bearer another") in session.metadata("/a.B/C", None)
    file.unlink()
    assert ("authorization", "Bearer another") in session.metadata("/a.B/C", None)


def test_a_token_is_given_once(tmp_path: Path) -> None:
    """
    A token beside a token file is a mistake, and so is a file that is not there.
    """
    (tmp_path / "token").write_text("one")
    with pytest.raises(ValueError, match="one is enough"):
        modelyard.connect(token="two", token_file=tmp_path / "token")
    with pytest.raises(FileNotFoundError):
        modelyard.connect(token_file=tmp_path / "none")
