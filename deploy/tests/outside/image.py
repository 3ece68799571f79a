"""
What deploy/Dockerfile makes, as a folder: so that its entrypoint runs as in a container where there is no engine.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_APP = "/opt/modelyard/app"


@dataclass(frozen=True, slots=True)
class Image:
    """
    Args:
        app: the folder that is /opt/modelyard/app in the image.
        environment: of the image, led to that folder and to the Python of its packages.
        entrypoint: what comes before a container's arguments.
    """

    app: Path
    environment: Mapping[str, str]
    entrypoint: Sequence[str]


def make(folder: Path) -> Image:
    """
    Copy what the Dockerfile copies, and nothing that .dockerignore leaves out. Nobody may write to it.

    The packages are those of this Python, or of MODELYARD_IMAGE_PYTHON: one with requirements/image.txt and no more.
    """
    build, last = DOCKERFILE.read_text().split("\nFROM ${BASE}\n")
    app = folder / "app"
    for sources, target in _copies(build):
        if target.startswith(_APP):
            for source in sources:
                _copy(source.rstrip("/"), app / target.removeprefix(_APP).strip("/"), whole=source.endswith("/"))
    for path in (app, *app.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    python = Path(os.environ.get("MODELYARD_IMAGE_PYTHON", sys.executable))
    given = dict(re.findall(r"\b([A-Z_]+)=(\S+)", _after("ENV", last)))
    given |= {"PATH": f"{python.parent}:/usr/bin:/bin", "PYTHONPATH": str(app)}
    command: list[str] = json.loads(_after("ENTRYPOINT", last))
    assert command[0] == "python"
    return Image(app, given, [str(python), *command[1:]])


def _after(word: str, text: str) -> str:
    found = re.search(rf"^{word} ((?:.|\\\n)*?)(?:\n[A-Z]+ |\n?\Z)", text, re.MULTILINE)
    assert found is not None
    return found[1]


def _copies(text: str) -> Iterator[tuple[list[str], str]]:
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, target = line.split()
        yield sources, target


def _copy(source: str, target: Path, *, whole: bool) -> None:
    path = ROOT / source
    if whole:
        for file in path.rglob("*"):
            relative = file.relative_to(ROOT)
            if file.is_file() and not _ignored(relative):
                place = target / file.relative_to(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
    else:
        assert not _ignored(Path(source)), f"{source} is copied, and is left out by .dockerignore"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)


def _ignored(path: Path) -> bool:
    """
    https://docs.docker.com/build/concepts/context/#dockerignore-files: the last line that fits decides.
    """
    ignored = False
    for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!")
            if any(_fits(pattern, part) for part in (path, *path.parents)):
                ignored = not line.startswith("!")
    return ignored


def _fits(pattern: str, path: Path) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.name, pattern[3:])
    return len(Path(pattern).parts) == len(path.parts) and fnmatch.fnmatchcase(str(path), pattern)
