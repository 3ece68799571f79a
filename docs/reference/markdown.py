"""
Markdown from text of the sources: escaping, tables, headings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Outside of `code`, these begin markup where a source means the character itself.
_MARKUP = re.compile(r"([\\*_<>{}\[\]|$])")
_CODE = re.compile(r"(`[^`\n]+`)")
_NAME = re.compile(r"(\$?\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b)")


def prose(text: str) -> str:
    """
    Plain text with `code` in it, so that nothing else in it is markup. Names in capitals (MODEL_NOT_FOUND) become code.
    """
    parts = _CODE.split(text)
    return "".join(part if index % 2 else _plain(part) for index, part in enumerate(parts))


def _plain(text: str) -> str:
    parts = _NAME.split(text)
    return "".join(code(part) if index % 2 else _MARKUP.sub(r"\\\1", part) for index, part in enumerate(parts))


def code(text: str) -> str:
    """
    *text* as code; empty text stays empty.
    """
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """
    Help text as a sentence: a capital first letter unless it is a name in code, and a full stop.
    """
    text = " ".join(text.split())
    if not text:
        return ""
    first = text.split()[0]
    text = text if not first.isalpha() or not first.islower() else text[0].upper() + text[1:]
    return text if text.endswith((".", "?", "!", ":")) else f"{text}."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    A table. Cells are Markdown; a line break within one becomes a space, and a bar is escaped.
    """

    def line(cells: Sequence[str]) -> str:
        clean = (re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split())) for cell in cells)
        return f"| {' | '.join(clean)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *(line(row) for row in rows)])


def page(title: str, about: str, *sections: str) -> str:
    """
    A page: its title, what it is for, and its sections.
    """
    return (
        "\n\n".join([f"# {title}", about.strip(), *(section.strip() for section in sections if section.strip())]) + "\n"
    )
