"""
The pages of the site: a place in the navigation, and a tutorial that works.
Links: tests/end_to_end/operations/test_pages.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from docs.site import navigation, staging
from docs.site.staging import ROOT, links, sources
from embedded.shared import Servers, SharedStack
from embedded.stack import Stack, StackSettings
from tools.environments import python_with


def test_every_page_has_a_place_in_the_navigation() -> None:
    """
    A new page is named in docs/site/navigation.py, or its folder's README leads to it.
    """
    named = {page for pages in navigation.SECTIONS.values() for page in pages} | {"index"}
    apart = {name for name in sources() if name.partition("/")[0] in navigation.APART}
    assert {name.removesuffix(".md") for name in sources().keys() - apart} <= named
    for folder in navigation.APART:
        readme = ROOT / "docs" / folder / "README.md"
        led = {f"{folder}/{link.partition('#')[0]}" for link in links(readme.read_text())}
        assert {name for name in apart if name.startswith(f"{folder}/")} <= led | {f"{folder}/README.md"}


def test_links_out_of_the_site_become_paths() -> None:
    """
    Where a page links to a source, the site shows the path: it is read without the repository.
    """
    found = sources()
    text = staging._linked("versions.md", found["versions.md"], found, {}, [])
    assert "](../protos" not in text
    assert "`protos/modelyard/registry/v1/aliases.proto`" in text


def test_pictures_need_nothing_from_elsewhere() -> None:
    """
    The pictures are SVG without scripts, fonts or references, on a background of their own; the screenshot is small.
    """
    for path in (ROOT / "docs" / "images").iterdir():
        if path.suffix == ".svg":
            text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
            assert "http" not in text
            assert "<script" not in text
            assert "<title" in text
            assert 'fill="#ffffff"' in text
        else:
            assert path.stat().st_size < 200_000


def test_the_tutorial_works(stack: Stack, tmp_path: Path) -> None:
    """
    Its commands, in order, against a running suite, print what it says they print.
    """
    _follow("tutorial.md", stack, tmp_path)


def test_the_page_on_promotions_works(run_servers: Servers, tmp_path: Path) -> None:
    """
    The commands of its two teams, in order, against a suite with access control, print what it says they print.
    """
    stack = run_servers.stack("access on", StackSettings(state=Path(), gateway_port=0, access="on"))
    _follow("promotions.md", stack, tmp_path, MODELYARD_STATE=str(stack.settings.state.resolve()))


def test_the_page_on_the_hub_works(stack: Stack, tmp_path: Path) -> None:
    """
    Its commands and its program, in order, with the Hub's own client, print what it says they print.
    """
    try:
        client = python_with("hub2")
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot install the client (requirements/hub2.txt)")
    own = {"HF_ENDPOINT": f"http://{stack.gateway}", "HF_HOME": str(tmp_path / "home")}
    _follow("huggingface.md", stack, tmp_path, client, **own)


def _follow(page: str, stack: Stack | SharedStack, folder: Path, python: Path | None = None, **own: str) -> None:
    """
    Run the commands of a page, and compare what is printed.

    Args:
        page: in docs/.
        folder: where.
        python: of the environment whose commands come before others, and which runs the programs of the page.
        own: further variables of the environment.
    """
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```(sh|python|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    places = [str(ROOT / ".venv" / "bin"), os.environ["PATH"]]
    if python is not None:
        places.insert(0, str(python.parent))
    environment = {**os.environ, **own, "PATH": os.pathsep.join(places), "MODELYARD_TARGET": stack.gateway}
    steps = [step if kind == "sh" else f"python <<'END'\n{step}END" for kind, step in blocks if kind != "text"]
    commands = "\n".join(steps).replace("127.0.0.1:8080", stack.gateway)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in (text for kind, text in blocks if kind == "text"):
        lines = (re.escape(line.strip()).replace("…", ".*") for line in text.splitlines())
        assert re.search(r"\s*\n\s*".join(lines), done.stdout), text


@pytest.mark.parametrize("name", ["suite.svg", "console.png"])
def test_the_readme_shows_the_pictures(name: str) -> None:
    """
    The picture of the suite and the screenshot are in the README.
    """
    assert f"docs/images/{name}" in (ROOT / "README.md").read_text()
