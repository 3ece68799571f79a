"""
Whether a path stays inside its folder.
"""

from __future__ import annotations

from pathlib import Path


def leads_out(root: Path, path: str) -> bool:
    """
    Whether something that is in the folder already, a link, makes *path* lead out of it.

    Args:
        root: the folder, resolved.
        path: relative, and right.
    """
    place = root
    for part in path.split("/"):
        place = place / part
        if place.is_symlink() and not place.resolve().is_relative_to(root):
            return True
    return False
