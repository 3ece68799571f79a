"""
The reference pages of the documentation, generated from the sources: `pages()` returns them by file name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from docs.reference import api, cli, errors, metrics, programs, settings


@cache
def pages() -> dict[str, str]:
    """
    The generated pages, as Markdown by file name.
    """
    return {
        **api.pages(),
        "cli.md": cli.page(),
        "programs.md": programs.page(),
        "settings.md": settings.page(),
        "metrics.md": metrics.page(),
        "errors.md": errors.page(),
    }


def write(folder: Path) -> None:
    """
    Write the pages into a folder.
    """
    for name, text in pages().items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
