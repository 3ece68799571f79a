"""
Unmodified clients of OCI registries on the gateway: oras and crane. They are built once by
`python -m services.doors.tests.oci_programs`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import modelyard
from embedded.golang import GoProgram
from embedded.shared import Servers
from embedded.stack import Stack
from modelyard.registry.v1 import versions_pb2
from services.doors.tests.conftest import Publish
from services.doors.tests.oci_programs import CRANE, ORAS, found
from services.doors.tests.test_oci import CONTENT, Closed, closed_suite

FILES = {
    "config.json": b'{"model_type": "resnet"}',
    "README.md": b"# hello",
    "unet/model.safetensors": bytes(range(256)) * 10_000,
    "tokenizer/vocab.txt": b"",
}

PAGE = Path(__file__).resolve().parents[3] / "docs" / "oci.md"
Run = Callable[..., str]


def _runner(program: GoProgram, folder: Path) -> Run:
    path = found(program)
    if path is None:
        pytest.skip(f"{program.name} is not here: python -m services.doors.tests.oci_programs")

    def run(*arguments: str, given: str = "", fails: bool = False) -> str:
        environment = {"HOME": str(folder), "DOCKER_CONFIG": str(folder), "PATH": ""}
        done = subprocess.run(
            [str(path), *arguments],
            input=given,
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.fixture
def oras(tmp_path: Path) -> Run:
    """
    Runs oras in a folder of its own.
    """
    return _runner(ORAS, tmp_path)


@pytest.fixture
def crane(tmp_path: Path) -> Run:
    """
    Runs crane in a folder of its own.
    """
    return _runner(CRANE, tmp_path)


@pytest.fixture(scope="module")
def repository(stack: Stack, namespace: str, publish: Publish) -> str:
    """
    A repository at the gateway, with its host.
    """
    return f"{stack.gateway}/{namespace}/{publish(FILES, 'resnet50', alias='production', license='mit')}"


def _files(folder: Path) -> Mapping[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_oras_pulls_the_files(repository: str, oras: Run, tmp_path: Path) -> None:
    """
    `oras pull` writes a version's files with their paths.
    """
    oras("pull", "--plain-http", f"{repository}:production", "-o", str(tmp_path / "out"))
    assert _files(tmp_path / "out") == FILES


def test_oras_copies_to_a_layout(repository: str, oras: Run, tmp_path: Path) -> None:
    """
    `oras copy` takes a whole artifact to another place: manifest, configuration and files.
    """
    oras("copy", "--from-plain-http", f"{repository}:v1", "--to-oci-layout", f"{tmp_path / 'layout'}:here")
    oras("pull", "--oci-layout", f"{tmp_path / 'layout'}:here", "-o", str(tmp_path / "out"))
    assert _files(tmp_path / "out") == FILES


def test_oras_lists_and_discovers(repository: str, oras: Run) -> None:
    """
    `oras repo tags` shows aliases and versions, `oras discover` asks for referrers.
    """
    assert oras("repo", "tags", "--plain-http", repository).split() == ["latest", "production", "v1"]
    assert repository in oras("discover", "--plain-http", f"{repository}:v1")


def test_crane_sees_the_digest_of_the_registry(repository: str, crane: Run, yard: modelyard.Client) -> None:
    """
    `crane digest` and `crane manifest` agree with the digest that the registry shows.
    """
    _, namespace, model = repository.rsplit("/", 2)
    name = f"namespaces/{namespace}/models/{model}/versions/1"
    version = yard.versions.GetVersion(versions_pb2.GetVersionRequest(name=name))
    assert crane("--insecure", "digest", f"{repository}:latest").strip() == version.oci_digest
    manifest = crane("--insecure", "manifest", f"{repository}@{version.oci_digest}")
    assert f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}" == version.oci_digest
    assert json.loads(crane("--insecure", "config", f"{repository}:v1"))["descriptor"]["licenses"] == ["mit"]


def test_crane_pulls_and_validates(repository: str, crane: Run, tmp_path: Path) -> None:
    """
    `crane validate` finds every layer as the manifest says; `crane pull` stores them; `crane ls` lists the tags.
    """
    assert crane("--insecure", "ls", repository).split() == ["latest", "production", "v1"]
    crane("--insecure", "validate", "--remote", f"{repository}:production")
    crane("--insecure", "pull", "--format=oci", f"{repository}:production", str(tmp_path / "layout"))
    blobs = {each.name for each in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    assert {hashlib.sha256(content).hexdigest() for content in FILES.values()} <= blobs


def test_the_commands_of_the_page(repository: str, oras: Run, crane: Run) -> None:
    """
    The commands of docs/oci.md run as they are there, with another host.
    """
    text = PAGE.read_text().replace("yard.example.org/vision/resnet50", repository)
    digest = crane("--insecure", "digest", f"{repository}:v1").strip()
    lines = re.findall(r"^(?:oras|crane) .*$", text, re.MULTILINE)
    ran = 0
    for line in lines:
        program, *arguments = shlex.split(re.sub("@sha256:[0-9a-f]+", f"@{digest}", line))
        if program == "oras" and "login" not in arguments:
            oras(arguments[0], "--plain-http", *arguments[1:])
            ran += 1
        elif program == "crane" and "auth" not in arguments:
            crane("--insecure", *arguments)
            ran += 1
    assert ran == 6


def test_pushes_fail_with_a_word(repository: str, oras: Run, tmp_path: Path) -> None:
    """
    `oras push` fails, and shows the sentence that says what to do.
    """
    (tmp_path / "f").write_bytes(b"new")
    assert "modelyard versions push" in oras("push", "--plain-http", f"{repository}:new", "f", fails=True)


@pytest.fixture(scope="module")
def closed(run_servers: Servers, worker: str) -> Closed:
    """
    The suite with access control.
    """
    return closed_suite(run_servers, "on", f"{worker}-clients")


def test_oras_logs_in(closed: Closed, oras: Run, tmp_path: Path) -> None:
    """
    After `oras login` with a token as the password its owner pulls from a private namespace, and nobody else does.
    """
    host = closed.stack.gateway
    refused = oras("pull", "--plain-http", f"{host}/{closed.private}/m:latest", fails=True)
    assert "401" in refused or "unauthorized" in refused.lower()
    oras("login", "--plain-http", host, "-u", "me", "--password-stdin", given=closed.token("ann"))
    oras("pull", "--plain-http", f"{host}/{closed.private}/m:latest", "-o", str(tmp_path / "out"))
    assert _files(tmp_path / "out") == {"f": CONTENT}
    oras("login", "--plain-http", host, "-u", "me", "--password-stdin", given=closed.token("stranger"))
    assert "not found" in oras("pull", "--plain-http", f"{host}/{closed.private}/m:latest", fails=True)
    oras("login", "--plain-http", host, "-u", "me", "--password-stdin", given="wrong", fails=True)


def test_crane_logs_in(closed: Closed, crane: Run) -> None:
    """
    After `crane auth login` with a token as the password its owner reads a private namespace.
    """
    host = closed.stack.gateway
    crane("--insecure", "validate", "--remote", f"{host}/{closed.private}/m:latest", fails=True)
    crane("--insecure", "auth", "login", host, "-u", "me", "--password-stdin", given=closed.token("ann"))
    crane("--insecure", "validate", "--remote", f"{host}/{closed.private}/m:latest")


def test_clients_without_a_login_where_reading_is_public(
    run_servers: Servers, worker: str, oras: Run, crane: Run
) -> None:
    """
    Where reading is public, both pull without a login.
    """
    public = closed_suite(run_servers, "read-public", f"{worker}-clients")
    host = public.stack.gateway
    oras("pull", "--plain-http", f"{host}/{public.opened}/m:latest")
    crane("--insecure", "validate", "--remote", f"{host}/{public.opened}/m:latest")
    crane("--insecure", "validate", "--remote", f"{host}/{public.private}/m:latest", fails=True)
