"""
The Terraform modules: whole, documented, connected to the right settings, and closed to the world.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from deploy.checks.policies.settings import PROGRAMS

TERRAFORM = Path(__file__).resolve().parents[1] / "terraform"
FOLDERS = sorted({path.parent for path in TERRAFORM.rglob("*.tf")})
_TERRAFORM = shutil.which("terraform") or shutil.which("tofu")
_SETTINGS = {each.metadata["variable"].name for one in PROGRAMS.values() for each in fields(one)}


@dataclass(frozen=True)
class Module:
    """
    A folder of Terraform.
    """

    folder: Path

    @cached_property
    def text(self) -> str:
        """
        All of it, without comments.
        """
        whole = "\n".join(path.read_text() for path in sorted(self.folder.glob("*.tf")))
        return re.sub(r"^\s*#.*$", "", whole, flags=re.MULTILINE)

    @cached_property
    def blocks(self) -> dict[str, list[Any]]:
        """
        By kind: variable, output, resource, data, module, locals.
        """
        return _plain(hcl2.loads(self.text))  # type: ignore[no-any-return]

    def named(self, kind: str) -> dict[str, Any]:
        """
        Variables, outputs or modules by name.
        """
        return {name: body for each in self.blocks.get(kind, []) for name, body in each.items()}

    def resources(self, kind: str = "resource") -> dict[str, Any]:
        """
        Resources (or data) by "type.name".
        """
        return {
            f"{sort}.{name}": body
            for each in self.blocks.get(kind, [])
            for sort, named in each.items()
            for name, body in named.items()
        }


def _plain(value: Any) -> Any:
    """
    Without the quotes and the marks of the parser.
    """
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.strip('"') if isinstance(value, str) else value


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def module(request: pytest.FixtureRequest) -> Module:
    """
    Each folder in turn.
    """
    return Module(request.param)


def test_variables_and_outputs_are_described(module: Module) -> None:
    """
    Each variable has a type and a description and is used; each that is used is there; each output is described.
    """
    variables = module.named("variable")
    assert all({"type", "description"} <= body.keys() for body in variables.values())
    used = re.sub(r'variable "\w+" \{.*?\n\}', "", module.text, flags=re.DOTALL)
    assert set(re.findall(r"\bvar\.(\w+)", used)) == set(variables)
    assert all("description" in body for body in module.named("output").values())


def test_references_lead_somewhere(module: Module) -> None:
    """
    Resources, data and locals that are named exist.
    """
    named = set(re.findall(r"(?<![\w.\"])((?:data\.)?aws_\w+\.\w+)", module.text))
    there = {*module.resources(), *(f"data.{name}" for name in module.resources("data"))}
    assert {name for name in named if not name.startswith("data.")} <= there
    assert {name for name in named if name.startswith("data.")} <= there
    known = {name for each in module.blocks.get("locals", []) for name in each}
    assert set(re.findall(r"\blocal\.(\w+)", module.text)) <= known


def test_modules_are_called_as_they_are() -> None:
    """
    The example gives every module what it asks for and nothing else, and uses outputs that there are.
    """
    example = Module(TERRAFORM / "examples" / "production")
    for name, call in example.named("module").items():
        called = Module((example.folder / call["source"]).resolve())
        variables = called.named("variable")
        assert set(call) - {"source"} <= set(variables), name
        assert {key for key, body in variables.items() if "default" not in body} <= set(call), name
        used = set(re.findall(rf"\bmodule\.{name}\.(\w+)", example.text))
        assert used <= set(called.named("output")), name


def test_outputs_are_settings() -> None:
    """
    An output that is called like a setting is one; what the overlay leaves to its user is what the example prints.
    """
    for folder in FOLDERS:
        outputs = {name for name in Module(folder).named("output") if name.startswith("MODELYARD_")}
        assert outputs <= _SETTINGS
    text = (TERRAFORM / "examples" / "production" / "outputs.tf").read_text()
    printed = set(re.findall(r"^\s+(MODELYARD_\w+|OWNER_\w+)\s+=", text, re.MULTILINE))
    overlay = yaml.safe_load((TERRAFORM.parent / "overlays" / "production" / "kustomization.yaml").read_text())
    asked = {
        line.partition("=")[0]
        for config in overlay["configMapGenerator"]
        for line in config["literals"]
        if config["name"] != "settings"
    }
    assert asked == printed


def closed(module: Module) -> Iterator[str]:
    """
    What is open or unencrypted, and what would be in the state that should not be.
    """
    for name, body in {**module.resources(), **module.resources("data")}.items():
        for rule in _RULES:
            if name.startswith(f"{rule.kind}.") and not rule.holds(body):
                yield f"{name}: {rule.says}"
    if re.search(r"0\.0\.0\.0/0|::/0", module.text):
        yield "open to all addresses"
    if re.search(r"BEGIN (RSA )?PRIVATE KEY|AKIA[0-9A-Z]{16}", module.text):
        yield "a secret"
    for name, body in module.named("variable").items():
        if re.search(r"password$|private", name) and body.get("sensitive") is not True:
            yield f"variable {name} is not sensitive"


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    holds: Callable[[dict[str, Any]], bool]
    says: str


_BLOCKS = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
_RULES = (
    _Rule("aws_db_instance", lambda body: body.get("storage_encrypted") is True, "not encrypted"),
    _Rule("aws_db_instance", lambda body: body.get("publicly_accessible") is False, "public"),
    _Rule("aws_db_instance", lambda body: "password" not in body, "its password is in the state"),
    _Rule("aws_elasticache_replication_group", lambda body: body.get("transit_encryption_enabled") is True, "no TLS"),
    _Rule(
        "aws_elasticache_replication_group",
        lambda body: body.get("at_rest_encryption_enabled") is True,
        "not encrypted",
    ),
    _Rule("aws_elasticache_replication_group", lambda body: "auth_token" in body, "no password"),
    _Rule(
        "aws_s3_bucket_public_access_block",
        lambda body: all(body.get(key) is True for key in _BLOCKS),
        "does not block all public access",
    ),
    _Rule("aws_cloudfront_origin_access_control", lambda body: body.get("signing_behavior") == "always", "unsigned"),
    _Rule(
        "aws_cloudfront_distribution",
        lambda body: all("origin_access_control_id" in one for one in body["origin"]),
        "an origin without access control",
    ),
    _Rule(
        "aws_cloudfront_distribution",
        lambda body: all(one["viewer_protocol_policy"] != "allow-all" for one in body["default_cache_behavior"]),
        "plain HTTP",
    ),
)


def test_nothing_is_open(module: Module) -> None:
    """
    Everything is encrypted and reached by TLS and with rights only; no secret is in it.
    """
    assert list(closed(module)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("postgres", "storage_encrypted     = true", "storage_encrypted = false", "not encrypted"),
        ("postgres", "publicly_accessible    = false", "publicly_accessible = true", "public"),
        ("postgres", "manage_master_user_password   = true", 'password = "x"', "its password is in the state"),
        ("valkey", "transit_encryption_enabled = true", "transit_encryption_enabled = false", "no TLS"),
        ("valkey", "auth_token                 = var.password", "", "no password"),
        ("valkey", "sensitive   = true", "", "variable password is not sensitive"),
        ("valkey", "referenced_security_group_id = each.value", 'cidr_ipv4 = "0.0.0.0/0"', "open to all"),
        ("assets", "ignore_public_acls      = true", "", "does not block all public access"),
        (
            "assets",
            "origin_access_control_id = aws_cloudfront_origin_access_control.this.id",
            "",
            "without access control",
        ),
        ("assets", '"redirect-to-https"', '"allow-all"', "plain HTTP"),
    ],
)
def test_what_is_open_is_found(name: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    """
    Each of these changes makes something open, and is found.
    """
    changed = 0
    for path in (TERRAFORM / "modules" / name).glob("*.tf"):
        text = path.read_text()
        changed += old in text
        (tmp_path / path.name).write_text(text.replace(old, new))
    assert changed
    assert says in "\n".join(closed(Module(tmp_path)))


@pytest.mark.skipif(_TERRAFORM is None, reason="neither terraform nor tofu is on PATH")
def test_it_is_formatted() -> None:
    """
    `terraform fmt` would change nothing; it also reads all of the syntax.
    """
    done = subprocess.run(
        [str(_TERRAFORM), "fmt", "-check", "-diff", "-recursive", str(TERRAFORM)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    _TERRAFORM is None or "MODELYARD_TERRAFORM_MIRROR" not in os.environ,
    reason="terraform validate needs the AWS provider: MODELYARD_TERRAFORM_MIRROR names a folder that has it",
)
def test_terraform_validates_it(tmp_path: Path) -> None:
    """
    `terraform validate` finds the example and its modules to fit the provider's schema.
    """
    shutil.copytree(TERRAFORM, tmp_path / "terraform")
    folder = str(tmp_path / "terraform" / "examples" / "production")
    init = [str(_TERRAFORM), f"-chdir={folder}", "init", "-backend=false"]
    mirror = f"-plugin-dir={os.environ['MODELYARD_TERRAFORM_MIRROR']}"
    subprocess.run([*init, mirror], check=True, timeout=300)
    subprocess.run([str(_TERRAFORM), f"-chdir={folder}", "validate"], check=True, timeout=300)
