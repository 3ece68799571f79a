"""
compose.yaml: what it names is there, what it sets is understood, and Prometheus finds every page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy import secrets
from deploy.checks.policies.settings import PROGRAMS, wrong
from deploy.tests.test_gateway_arguments import accepted

DEPLOY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """
    The file, as YAML has it.
    """
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def _environment(service: dict[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name in service.get("env_file", []):
        lines = (DEPLOY / name).read_text().splitlines()
        values |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    values.update(service.get("environment", {}))
    return values


def _targets(service: dict[str, Any]) -> set[str]:
    given = service.get("secrets", [])
    return {f"/run/secrets/{one}" if isinstance(one, str) else one["target"] for one in given}


@pytest.mark.parametrize("name", ["registry", "cdn", "cache", "doors", "registry-migration", "cdn-migration"])
def test_settings_are_understood(compose: dict[str, Any], name: str) -> None:
    """
    A program reads its settings without an error; the files that they name are secrets of it; the hosts are services.
    """
    service = compose["services"][name]
    values = _environment(service)
    program = service["command"][0]
    assert program in PROGRAMS
    assert list(wrong(program, values)) == []
    assert {value for key, value in values.items() if key.endswith("_FILE")} == _targets(service)
    hosts = {urlsplit(value).hostname for key, value in values.items() if "://" in value}
    hosts |= {value.split(":")[0] for key, value in values.items() if key.endswith("_TARGET")}
    assert hosts <= set(compose["services"])


def test_envoy_takes_the_gateway(compose: dict[str, Any], tmp_path: Path) -> None:
    """
    `gateway.render` understands the gateway's arguments, and Envoy what it prints.
    """
    name, *options = compose["services"]["gateway"]["command"]
    assert name == "gateway"
    accepted(options, tmp_path)


def test_secrets_are_made(compose: dict[str, Any], tmp_path: Path) -> None:
    """
    `deploy.secrets` makes each file that is named, readable for its owner alone, and makes none of them twice.
    """
    made = secrets.make(tmp_path / "secrets")
    named = {tmp_path / one["file"] for one in compose["secrets"].values()}
    assert named <= set(made)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    before = {path: path.read_bytes() for path in made}
    assert secrets.make(tmp_path / "secrets") == []
    assert {path: path.read_bytes() for path in made} == before


def test_what_it_names_is_there(compose: dict[str, Any]) -> None:
    """
    Secrets, volumes, mounted files and parts to wait for exist; images have versions; ports are on loopback.
    """
    for service in compose["services"].values():
        used = {one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])}
        assert used <= set(compose["secrets"])
        assert set(service.get("depends_on", [])) <= set(compose["services"])
        assert re.fullmatch(r"[^:]+:v?[0-9]+[.0-9]+[a-z0-9.-]*", service["image"])
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_prometheus_finds_every_page(compose: dict[str, Any]) -> None:
    """
    Each program has a job of its name, on the port of its metrics.
    """
    config = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yaml").read_text())
    jobs = {one["job_name"]: one["static_configs"][0]["targets"] for one in config["scrape_configs"]}
    operations = next(one for one in compose["services"]["gateway"]["command"] if one.startswith("--operations="))
    assert jobs == {
        **{name: [f"{name}:9464"] for name in ("registry", "cache", "cdn", "doors")},
        "gateway": [f"gateway:{operations.rpartition(':')[2]}"],
    }
