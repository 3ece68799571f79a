"""
The pages of the site in a folder of their own, as Sphinx reads them: those of `docs/`, a few from elsewhere in the
repository, and the generated reference.

A link to a file of the repository that is no page becomes the file's path, because the site is read without the
repository.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docs import reference
from docs.site import navigation

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
#: Pages from outside of docs/, by their place in the site.
ELSEWHERE: Final = {
    "repository/changelog.md": "CHANGELOG.md",
    "repository/contributing.md": "CONTRIBUTING.md",
    "repository/deploy.md": "deploy/README.md",
    "repository/deploy-terraform.md": "deploy/terraform/README.md",
}
#: Folders of docs/ that hold the programs.
_PROGRAMS = ("reference", "site", "tests")
# [text](target), and ![text](target), whose text may be in brackets itself.
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
# Of a page without its code: where links are looked for. The text of a link may have code in it.
_FENCE = re.compile(r"(^ *```.*?^ *```\s*?$)", re.MULTILINE | re.DOTALL)


class BrokenLinkError(Exception):
    """
    Links that lead nowhere, one line each.
    """


def sources() -> dict[str, Path]:
    """
    The files that are pages, by their place in the site.
    """
    found = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
    found = {name: path for name, path in found.items() if name.partition("/")[0] not in _PROGRAMS}
    # Sphinx has a page of that name itself.
    found["model-search.md"] = found.pop("search.md")
    return found | {name: ROOT / path for name, path in ELSEWHERE.items()}


def links(text: str) -> list[str]:
    """
    The targets of the links of a page, but for those in blocks of code.
    """
    return [found["target"] for part in _FENCE.split(text)[::2] for found in _LINK.finditer(part)]


def stage(folder: Path) -> None:
    """
    Write everything that Sphinx reads.

    Args:
        folder: for it; what it holds is replaced.

    Raises:
        BrokenLinkError: a page links to a file that does not exist.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generated = {f"reference/{name}": text for name, text in reference.pages().items()}
    found = sources()
    names = [name.removesuffix(".md") for name in (*found, *generated)]
    broken: list[str] = []
    texts = {name: _linked(name, path, found, generated, broken) for name, path in found.items()}
    if broken:
        raise BrokenLinkError("\n".join(broken))
    for name, text in (*texts.items(), *generated.items()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        page = name.removesuffix(".md")
        target.write_text(navigation.front_matter(page) + text + navigation.trees(page, names))
    shutil.copyfile(DOCS / "site" / "conf.py", folder / "conf.py")
    shutil.copytree(DOCS / "images", folder / "images")
    shutil.copytree(DOCS / "site" / "static", folder / "static")


def _linked(name: str, path: Path, found: Mapping[str, Path], generated: Mapping[str, str], broken: list[str]) -> str:
    places = {source.resolve(): place for place, source in found.items()}

    def relink(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        file = (path.parent / target).resolve()
        here = DOCS / name
        if place := places.get(file):
            return f"[{link['text']}]({os.path.relpath(DOCS / place, here.parent)}{'#' * bool(anchor)}{anchor})"
        if file.is_relative_to(DOCS) and str(file.relative_to(DOCS)) in generated:
            return link[0]
        if not file.exists():
            broken.append(f"{path.relative_to(ROOT)}: {link['target']} does not exist")
        if link["image"]:
            return link[0]
        shown = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else target
        text = link["text"].strip("`")
        return f"`{shown}`" if text.strip("/") in shown else f"{link['text']} (`{shown}`)"

    parts = _FENCE.split(path.read_text())
    return "".join(part if index % 2 else _LINK.sub(relink, part) for index, part in enumerate(parts))
