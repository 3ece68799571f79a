"""
Where each page stands in the site: the order of a section is the order in the side bar.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Pages by section, as paths in the site without the extension. One that does not exist is left out.
SECTIONS: Final = {
    "Start": ("tutorial",),
    "How-to guides: use": (
        "versions",
        "model-search",
        "evaluations",
        "assets",
        "delivery",
        "mlflow",
        "oci",
        "json",
        "huggingface",
        "cli",
    ),
    "How-to guides: operate": (
        "operations",
        "operations/install",
        "operations/upgrade",
        "operations/backup",
        "operations/scaling",
        "operations/ttl",
        "operations/keys",
        "operations/audit",
        "access",
        "promotions",
        "tls",
        "protection",
        "rolling",
        "cache",
        "monitoring",
        "observability",
        "runbooks/README",
        "capacity",
        "bench",
        "compatibility",
        "repository/deploy",
        "repository/deploy-terraform",
    ),
    "Reference": (
        "reference/api/index",
        "reference/cli",
        "reference/programs",
        "reference/settings",
        "reference/metrics",
        "reference/errors",
        "glossary",
        "repository/changelog",
    ),
    "Explanation": ("architecture", "coherence", "hosts", "adr/README", "repository/contributing"),
}

#: A page that leads to all other pages of its folder.
FOLDERS: Final = ("reference/api/index",)
#: Folders whose pages only their README leads to. In the side bar of every page they would be most of it, and most of
#: the time that the build takes.
APART: Final = ("adr", "runbooks")


def trees(page: str, pages: Iterable[str]) -> str:
    """
    The tables of contents that a page carries for the side bar, in the notation of MyST; hidden on the page itself.

    Args:
        page: index for the sections, or one of `FOLDERS`.
        pages: all pages that there are.
    """
    there = sorted(pages)
    if page == "index":
        return "".join(_tree([each for each in found if each in there], title) for title, found in SECTIONS.items())
    if page in FOLDERS:
        folder = page.rpartition("/")[0]
        return _tree([f"/{each}" for each in there if each.rpartition("/")[0] == folder and each != page], "")
    return ""


def front_matter(page: str) -> str:
    """
    What a page begins with, so that Sphinx does not look for it in the side bar.
    """
    folder, _, name = page.rpartition("/")
    return "---\norphan: true\n---\n" if folder in APART and name != "README" else ""


def _tree(pages: Iterable[str], title: str) -> str:
    caption = f":caption: {title}\n" if title else ""
    return "\n```{toctree}\n:hidden:\n" + caption + "\n" + "\n".join(pages) + "\n```\n"
