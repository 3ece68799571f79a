"""
The received ranges of a file, recorded in a small file beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MIB = 1024 * 1024
# Not so large that one slow stream is waited for at the end, or the digest, which follows the bytes in their order; not
# so small that asking costs; and not so many that writing them down does.
_LEAST, _USUAL = 8 * _MIB, 32 * _MIB
_PIECES_OF_A_STREAM = 4
_MOST_PIECES = 1024


@dataclass(slots=True)
class Piece:
    """
    A range of a file that one stream brings.

    Args:
        start: its first byte.
        end: the byte after its last.
        done: the first byte that is missing; *end* when none is.
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
    The pieces of a file of *size* bytes, for so many *streams* at a time.
    """
    length = min(size // (streams * _PIECES_OF_A_STREAM), _USUAL)
    length = max(length, _LEAST, -(-size // _MOST_PIECES))
    length = -(-length // _MIB) * _MIB
    return [Piece(start, min(start + length, size), start) for start in range(0, size, length)]


def load(path: Path, size: int) -> list[Piece] | None:
    """
    The pieces as an interrupted download left them; None when there are none to rely on.
    """
    try:
        # A link would lead to a file of somebody else's.
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
    Keep the pieces.

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
