"""
The wheel as users install it: with the oldest dependencies that it declares. `make check-wheel` also resolves its
dependencies from the index: the newest, and those with an older protobuf.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from tools.environments import packages

ROOT = Path(__file__).resolve().parents[2]

# Every module of the wheel, its warnings as errors; then a write, a read and a page of a list.
_USE = """
import importlib, pkgutil, sys, modelyard
for found in pkgutil.walk_packages(modelyard.__path__, "modelyard."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from datetime import UTC, datetime
from modelyard.registry.v1 import aliases_pb2, namespaces_pb2
with modelyard.connect(sys.argv[1]) as yard:
    name = f"namespaces/{sys.argv[2]}"
    request = namespaces_pb2.CreateNamespaceRequest(namespace_id=sys.argv[2])
    assert yard.namespaces.CreateNamespace(request).name == name
    assert yard.namespaces.GetNamespace(namespaces_pb2.GetNamespaceRequest(name=name)).create_time.seconds
    try:
        past = aliases_pb2.GetAliasRequest(name=f"{name}/models/m/aliases/a")
        past.read_time.FromDatetime(datetime.now(UTC))
        yard.aliases.GetAlias(past)
    except Exception as error:
        assert modelyard.explain(error).code.name == "NOT_FOUND", error
    else:
        raise AssertionError("there is no such alias")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The wheel, built from this checkout.
    """
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "modelyard", source / "modelyard", ignore=shutil.ignore_patterns("__pycache__"))
    # The call that pip makes, without the start of pip.
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    _run(sys.executable, "-c", build, str(built), cwd=source)
    (found,) = built.glob("modelyard-*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """
    The wheel's metadata.
    """
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _floors(metadata: Message) -> Iterator[str]:
    for requirement in metadata.get_all("Requires-Dist", []):
        found = re.match(r"([\w-]+)(?:\[[\w,]+\])?[^;]*>=([0-9.]+)", requirement)
        assert found is not None, f"{requirement} has no floor"
        yield f"{found[1]}=={found[2]}"


def test_floors(wheel: Path, metadata: Message, gateway: str, tmp_path: Path) -> None:
    """
    With the oldest dependencies that it declares, every module is imported without a warning, calls are answered, and
    the command works.
    """
    python = _environment(tmp_path / "environment")
    # The dependencies stay installed from run to run; the wheel is new.
    (paths,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    (paths / "floors.pth").write_text(f"{packages('wheel-floors', sorted(_floors(metadata)))}\n")
    _run(sys.executable, *_PIP, "--python", python, "install", "--no-deps", "--no-compile", str(wheel))
    _check(python, metadata, gateway, tmp_path)


@pytest.mark.skipif("MODELYARD_CHECK_WHEEL" not in os.environ, reason="part of `make check-wheel`")
@pytest.mark.parametrize("pin", ["", "protobuf<7", "floors"])
def test_installed(pin: str, wheel: Path, metadata: Message, gateway: str, tmp_path: Path) -> None:
    """
    The same in an environment of its own with the dependencies that pip resolves: the newest, those with the protobuf
    that Kubeflow Pipelines needs (< 7), and the oldest.
    """
    python = _environment(tmp_path / "environment")
    pins = list(_floors(metadata)) if pin == "floors" else [pin] if pin else []
    _run(sys.executable, *_PIP, "--python", python, "install", f"{wheel}[tokens]", *pins)
    _check(python, metadata, gateway, tmp_path)


def _environment(folder: Path) -> str:
    venv.create(folder)
    return str(folder / "bin" / "python")


def _check(python: str, metadata: Message, gateway: str, folder: Path) -> None:
    _run(sys.executable, *_PIP, "--python", python, "check")
    _run(python, "-W", "error", "-c", _USE, gateway, f"wheel-{abs(hash(folder))}")
    modelyard = str(Path(python).parent / "modelyard")
    assert "exit codes:" in _run(modelyard, "--help")
    assert _run(modelyard, "--version") == f"modelyard {metadata['Version']}\n"
    assert "namespaces/default" in _run(modelyard, "--target", gateway, "namespaces", "list", "--json")


def test_extras(metadata: Message) -> None:
    """
    The extras belong to code in the wheel: none is for the services, which are not in it.
    """
    assert metadata.get_all("Provides-Extra") == ["tokens", "keyring"]


def test_description(metadata: Message) -> None:
    """
    The long description has no links or images that work only in a checkout.
    """
    text = str(metadata.get_payload())
    assert "modelyard.connect" in text
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert not [link for link in re.findall(r"\]\(([^)]*)\)", text) if not link.startswith("https://")]


def test_same_floors(metadata: Message) -> None:
    """
    The checkout's requirements are those that the wheel declares.
    """
    lines = (ROOT / "requirements" / "client.in").read_text().splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    said = {line for line in metadata.get_all("Requires-Dist", []) if ";" not in line}
    assert {_ordered(line) for line in wanted} == {_ordered(line) for line in said}


def _ordered(requirement: str) -> tuple[str, frozenset[str]]:
    name = re.match(r"[\w-]+", requirement)
    assert name is not None
    return name[0], frozenset(requirement[name.end() :].split(","))
