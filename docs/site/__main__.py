"""
`python -m docs.site`: build the documentation site into `.modelyard/site`, or into the folder that is given.

Sphinx runs in an environment of its own (requirements/docs.txt, `tools/environments.py`). Any warning fails the build:
broken links and anchors, pages outside of the navigation, and whatever a browser would fetch from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from docs.site.staging import ROOT, BrokenLinkError, stage
from tools.environments import python_with

# What a browser loads for a page: not the links that a reader follows.
_LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//")


def build(output: Path) -> None:
    """
    Build the site.

    Args:
        output: the folder for it; what it holds is replaced.

    Raises:
        SystemExit: the pages or Sphinx have something to complain about, or a page loads something from another host.
    """
    staged = output.with_name(f"{output.name}-pages")
    try:
        stage(staged)
    except BrokenLinkError as error:
        raise SystemExit(f"broken links:\n{error}") from None
    shutil.rmtree(output, ignore_errors=True)
    options = ["--builder", "html", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    command = [str(python_with("docs")), "-m", "sphinx", *options, "--doctree-dir", str(staged / ".doctrees")]
    if subprocess.run([*command, str(staged), str(output)], check=False).returncode:
        raise SystemExit("the documentation has warnings, see above")
    loads = [page.name for page in output.rglob("*.html") if _LOADED.search(page.read_text())]
    if loads:
        raise SystemExit(f"pages that load something from another host: {', '.join(loads)}")


def main() -> None:
    """
    Build it and say where it is.
    """
    output = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".modelyard" / "site"
    build(output)
    print(f"The documentation is in {output / 'index.html'}")


if __name__ == "__main__":
    main()
