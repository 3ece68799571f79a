"""
Everything that the pages mention exists: settings, files, targets, commands, Secrets, metrics, and link targets.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from deploy.checks.__main__ import problems
from deploy.checks.building import OVERLAYS, NoKustomizeError, build
from docs.reference import api
from docs.site.staging import links
from embedded.stack import Stack
from modelyard.cli.main import _parser, main
from modelyard.contracts import services
from tests.end_to_end.operations.estate import DOCS, blocks, run

ROOT = DOCS.parents[1]
PAGES = [ROOT / "docs" / "operations.md", *sorted(DOCS.glob("*.md"))]
LINKING = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("README.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/RESULTS.md")),
]
_SOURCES = ("services", "modelyard", "gateway", "deploy", "bench")
_TOP = "|".join(("docs", "deploy", "services", "tests", "bench", "protos", "gateway", "examples"))


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def _settings() -> str:
    """
    The programs' sources, which contain the name of each setting.
    """
    files = (path for folder in _SOURCES for path in (ROOT / folder).rglob("*.py") if "tests" not in path.parts)
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_settings_exist(page: Path) -> None:
    """
    Each MODELYARD_… is a setting that a program reads.
    """
    sources = _settings()
    named = set(re.findall(r"\bMODELYARD_[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8")))
    missing = {name for name in named if f'"{name}"' not in sources and name not in _BUILT}
    assert not missing


#: Variables whose name is composed where it is read.
_BUILT = {"MODELYARD_TARGET", "MODELYARD_TOKEN_FILE", "MODELYARD_CA_FILE"}


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_files_and_targets_exist(page: Path) -> None:
    """
    Each path of the repository exists, each `make …` is a target, and each `python -m …` is a module.
    """
    text = page.read_text(encoding="utf-8")
    paths = re.findall(rf"(?<![\w/.-])((?:{_TOP})/[\w./-]*[\w/])", text)
    assert not [path for path in paths if not (ROOT / path).exists() and path not in _CREATED]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= targets
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert not [module for module in modules if importlib.util.find_spec(module) is None]


#: Created by a command of the page.
_CREATED = {"deploy/overlays/local/secrets"}


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_commands_exist(page: Path) -> None:
    """
    Each `modelyard …` is a command.
    """
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?:`|^ *)modelyard (?:--target \S+ )?((?:[a-z]+ ?)+)", text, re.MULTILINE)
    assert not [words for words in found if not _command(_commands(), words.split())]


@cache
def _commands() -> argparse.ArgumentParser:
    return _parser()


def _command(within: argparse.ArgumentParser, words: list[str]) -> bool:
    below = next((each for each in within._actions if isinstance(each, argparse._SubParsersAction)), None)
    if below is None or not words:
        return below is None
    return words[0] in below.choices and _command(below.choices[words[0]], words[1:])


@pytest.mark.parametrize("page", LINKING, ids=_named)
def test_links_resolve(page: Path) -> None:
    """
    Each relative link leads to a file that exists or is generated for the site, and its anchor to a heading.
    """
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target in _generated():
            continue
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


@cache
def _generated() -> set[Path]:
    names = {"api/index.md", *(f"api/{api.page_of(service)}" for service in services())}
    names |= {"cli.md", "programs.md", "settings.md", "metrics.md", "errors.md"}
    return {ROOT / "docs" / "reference" / name for name in names}


def _anchors(page: Path) -> set[str]:
    """
    The anchors that GitHub creates for headings.
    """
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_secret_is_in_the_table() -> None:
    """
    docs/operations/install.md lists each Secret that staging or production needs, with each of its keys.
    """
    try:
        suites = [build(overlay) for overlay in sorted(OVERLAYS.iterdir()) if overlay.name != "local"]
    except NoKustomizeError as error:
        pytest.skip(str(error))
    rows = [line for line in (DOCS / "install.md").read_text().splitlines() if line.startswith("| `")]
    table = {name: row for row in rows for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    for suite in suites:
        fetched = {each["metadata"]["name"] for each in suite.of("ExternalSecret")}
        for name in fetched | {each for pod in suite.pods for each in _secrets(pod.spec)}:
            assert name in table, name
        for name in fetched:
            assert not [key for key in suite.secrets()[name] if f"`{key}`" not in table[name]], name


def _secrets(spec: dict[str, object]) -> Iterator[str]:
    volumes = spec.get("volumes", [])
    assert isinstance(volumes, list)
    for volume in volumes:
        if "secret" in volume:
            yield volume["secret"]["secretName"]


def test_the_installation_is_verified(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The commands by which docs/operations/install.md verifies an installation succeed. Those of `modelyard` run in this
    process, with the target that the commands export.
    """
    record = 'modelyard() { printf "modelyard %s %s\\n" "$(printenv MODELYARD_TARGET)" "$*"; }'
    lines = run("install.md", "verify", before=record, TARGET=stack.gateway).splitlines()
    calls = [line.split() for line in lines if line.startswith("modelyard ")]
    assert len(calls) == 5
    for _, target, *arguments in calls:
        monkeypatch.setenv("MODELYARD_TARGET", target)
        assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "install-check" in printed
    assert all(name in printed for name in ("registry", "cdn"))


def _queries() -> list[str]:
    return [block for page in PAGES for block in blocks(page, "promql")]


def test_queries_are_valid(tmp_path: Path) -> None:
    """
    Prometheus accepts each query of the pages.
    """
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: `apt install prometheus` on Debian and Ubuntu")
    rules = [{"record": f"page:query:{number}", "expr": query} for number, query in enumerate(_queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "pages", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 10


def test_queried_metrics_exist(stack: Stack) -> None:
    """
    Each name in a query is a metric of a running suite, one of replicas (it has none), or recorded by a rule.
    """
    pages = [stack.gateway_metrics, *(page for service in stack.services.values() for page in service.metrics)]
    known = {name for page in pages for name in _metrics(page)}
    rules = "\n".join(path.read_text() for path in (ROOT / "deploy" / "monitoring" / "rules").glob("*.yaml"))
    known |= set(re.findall(r"record: (\S+)", rules)) | set(re.findall(r"modelyard_database_replica_\w+", rules))
    asked = {
        name for query in _queries() for name in re.findall(r"\b(?:modelyard|grpc|envoy|process)[_:][\w:]+", query)
    }
    assert asked <= known
    assert len(asked) > 10


def _metrics(url: str) -> set[str]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - on loopback
        return set(re.findall(r"^(\w+)[{ ]", answer.read().decode(), re.MULTILINE))


@pytest.mark.parametrize(("page", "name"), [("ttl.md", "times"), ("backup.md", "restored")])
def test_overlays_build(page: str, name: str, tmp_path: Path) -> None:
    """
    The additions to an overlay build on top of the overlay `staging`, and violate no policy.
    """
    (block,) = (each for each in blocks(DOCS / page, "yaml") if each.startswith(f"# {name}:"))
    staging = os.path.relpath(ROOT / "deploy" / "overlays" / "staging", tmp_path)
    content = yaml.safe_load(block)
    content |= {"resources": [staging], "namespace": "modelyard"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(ROOT / "services" / "cache" / "namespaces.toml", tmp_path)
    try:
        suite = build(tmp_path)
    except NoKustomizeError as error:
        pytest.skip(str(error))
    if name == "restored":
        # It is not applied as a whole, so the policies do not matter.
        jobs = [each for each in suite.of("Job") if each["metadata"]["name"].endswith("-migration")]
        assert [each["spec"]["template"]["spec"]["containers"][0]["args"][-1] for each in jobs] == ["--restored"] * 2
    else:
        # The check assumes that every file in a setting is a secret; this one is a table of namespaces.
        assert not [each for each in problems(suite) if "MODELYARD_CACHE_NAMESPACES_FILE" not in each]
