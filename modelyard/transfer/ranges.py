"""
The received ranges of a file, recorded in a small file beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MIB = 1024 * 1024
# Small enough that no slow stream, and not the hasher, which reads in order, delays the end; large enough that requests
# are cheap; few enough that recording them is cheap.
_LEAST, _USUAL = 8 * _MIB, 32 * _MIB
_PIECES_OF_A_STREAM = 4
_MOST_PIECES = 1024


@dataclass(slots=True)
class Piece:
    """
    A range of a file that one stream receives.

    Args:
        start: first byte.
        end: the byte after the last.
        done: first missing byte; *end* if none is missing.
    """

    start: int
    end: int
    done: int

    @property
    def missing(self) -> bool:
        """
        Whether bytes are missing.
        """
        return self.done < self.end


def cut(size: int, streams: int) -> list[Piece]:
    """
    Divide a file into pieces.

    Args:
        size: of the file in bytes.
        streams: number of concurrent streams.
    """
    length = min(size // (streams * _PIECES_OF_A_STREAM), _USUAL)
    length = max(length, _LEAST, -(-size // _MOST_PIECES))
    length = -(-length // _MIB) * _MIB
    return [Piece(start, min(start + length, size), start) for start in range(0, size, length)]


def load(path: Path, size: int) -> list[Piece] | None:
    """
    The pieces that an interrupted download recorded; None if they are missing or invalid.
    """
    try:
        # A link could lead to a file of another user.
        text = "" if path.is_symlink() else path.read_text(encoding="utf-8")
        pieces = [_piece(each) for each in json.loads(text)["pieces"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    edges = [0, *(piece.end for piece in pieces)]
    fits = all(
        before == piece.start <= piece.done <= piece.end for before, piece in zip(edges[:-1], pieces, strict=True)
    )
    return pieces if fits and edges[-1] == size else None


def save(path: Path, pieces: list[Piece]) -> None:
    """
    Record the pieces.

    Raises:
        OSError: they cannot be written.
    """
    text = json.dumps({"pieces": [[piece.start, piece.end, piece.done] for piece in pieces]})
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with new.open("x", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def _piece(found: Any) -> Piece:
    start, end, done = (int(each) for each in found)
    return Piece(start, end, done)
