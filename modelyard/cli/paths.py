"""
Whether a path stays inside its folder.
"""

from __future__ import annotations

from pathlib import Path


def leads_out(root: Path, path: str) -> bool:
    """
    Whether *path* leads out of the folder through an existing symbolic link.

    Args:
        root: the folder, resolved.
        path: valid relative path.
    """
    place = root
    for part in path.split("/"):
        place = place / part
        if place.is_symlink() and not place.resolve().is_relative_to(root):
            return True
    return False
