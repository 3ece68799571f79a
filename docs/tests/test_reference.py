"""
The generated reference is complete: compared with what the running code, the rules of the alerts and other tests name.
"""

from __future__ import annotations

import re

import pytest

from docs import reference
from docs.reference import errors, metrics, settings
from docs.reference.api import page_of
from docs.reference.sources import ROOT
from modelyard.cli import main
from modelyard.contracts import services


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """
    The generated pages.
    """
    return reference.pages()


def test_every_setting_is_in_the_reference(pages: dict[str, str]) -> None:
    """
    Every name that the sources pass to setting() or secret() has a row, with its default and what it is for.
    """
    declared = {
        name
        for path in (ROOT / "services").rglob("*.py")
        if "tests" not in path.parts
        for name in re.findall(r"\b(?:setting|secret)\(\s*\"(MODELYARD_\w+)\"", path.read_text())
    }
    assert len(declared) > 90
    assert declared <= {each.variable.name for each in settings.all_settings()}
    assert declared <= set(re.findall(r"^\| `(\w+)` \|", pages["settings.md"], re.MULTILINE))


def test_every_metric_is_in_the_reference(pages: dict[str, str]) -> None:
    """
    Every metric that an alert, a recording rule or a dashboard asks for, and each that the sources name, has a row.
    """
    listed = set(re.findall(r"^\| `(\w+)` \|", pages["metrics.md"], re.MULTILINE))
    monitoring = ROOT / "deploy" / "monitoring"
    files = [*(monitoring / "rules").glob("*.yaml"), *(monitoring / "dashboards").glob("*.json")]
    text = "".join(path.read_text() for path in files)
    asked = set(re.findall(r"(?<![\w:])(?:modelyard|grpc_server)_[a-z0-9_]+(?![\w:])", text))
    pattern = re.compile(r"\"((?:modelyard_(?:cache|registry|s3|change)|grpc_server)_[a-z0-9_]+)\"")
    named = {
        name
        for path in (ROOT / "services").rglob("*.py")
        if "tests" not in path.parts
        for name in pattern.findall(path.read_text())
    }
    # Of Envoy's statistics, which have the package of a method in their name.
    asked = {name for name in asked if "_v1_" not in name}
    assert asked
    assert named
    known = listed | {name.removesuffix("_total") for name in listed} | {"modelyard_cache_stream"}
    missing = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked | named} - known
    assert not missing


def test_metrics_have_type_labels_and_help() -> None:
    """
    A histogram by method has its labels, a counter the suffix of its series, and each a help text.
    """
    found = {each.name: each for each in metrics.families()}
    assert found["grpc_server_handling_seconds"].labels == ("grpc_type", "grpc_service", "grpc_method")
    assert found["modelyard_database_query_errors_total"].labels == ("statement", "error")
    assert found["modelyard_build_info"].labels[0] == "program"
    assert all(each.help for each in found.values())
    assert {each.name: each.labels for each in metrics.gateway_families()}["envoy_gateway_refused"] == ("cause",)


def test_every_rpc_is_in_the_reference(pages: dict[str, str]) -> None:
    """
    Every RPC has a heading on the page of its service, with its path, and every field of its messages a row.
    """
    api = {name: text for name, text in pages.items() if name.startswith("api/")}
    for service in services():
        page = api[f"api/{page_of(service)}"]
        assert page.startswith(f"# {service.name}")
        for method in service.methods:
            assert f"\n## {method.name}\n" in page
            assert f"`/{service.full_name}/{method.name}`" in page
            for message in (method.input_type, method.output_type):
                if message.full_name.startswith("modelyard."):
                    for field in message.fields:
                        assert f"\n| `{field.name}` | " in page


def test_every_reason_is_in_the_reference(pages: dict[str, str]) -> None:
    """
    Every reason that a test of the whole tree expects, and every one that a contract names, has a row with its status.
    """
    found = {each.name: each for each in errors.reasons()}
    expected = {
        reason
        for folder in ("services", "gateway", "tests", "modelyard")
        for path in (ROOT / folder).rglob("test_*.py")
        for reason in re.findall(r"\breason\)?\s*==\s*\"([A-Z][A-Z0-9_]+)\"", path.read_text())
    }
    assert len(expected) > 30
    # Made up by tests of the errors themselves.
    assert {each for each in expected - set(found) if not _made_up(each)} == set()
    contracts = "".join(path.read_text() for path in (ROOT / "protos" / "modelyard").rglob("*.proto"))
    named = set(re.findall(r"\(([A-Z][A-Z0-9]*_[A-Z0-9_]+)\)", contracts))
    assert len(named) > 30
    assert named <= set(found) | _VALUES
    assert all(each.codes for each in found.values())
    assert set(found) <= set(re.findall(r"^\| `(\w+)` \|", pages["errors.md"], re.MULTILINE))


# In parentheses in contracts, and no reason.
_VALUES: set[str] = set()


def _made_up(reason: str) -> bool:
    text = (ROOT / "services" / "chassis" / "tests").rglob("*.py")
    return any(f'"{reason}"' in path.read_text() for path in text)


def test_every_command_is_in_the_reference(pages: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """
    Every command that `modelyard --help`, and the help of each group of commands, lists has a heading.
    """

    def listed(*words: str) -> list[str]:
        with pytest.raises(SystemExit):
            main.main([*words, "--help"])
        _, _, text = capsys.readouterr().out.partition("\ncommands:\n")
        return re.findall(r"^ {4}([a-z][a-z-]*)(?: |$)", text.partition("\n\n")[0], re.MULTILINE)

    headings = set(re.findall(r"^##+ (.+)$", pages["cli.md"], re.MULTILINE))
    groups = listed()
    assert len(groups) > 10
    for group in groups:
        assert group in headings
        for command in listed(group):
            assert f"{group} {command}" in headings
