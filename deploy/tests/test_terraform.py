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
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from deploy.checks.policies.settings import PROGRAMS
from services.cdn.model import asset_key

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

    @property
    def name(self) -> str:
        """
        Of the folder.
        """
        return self.folder.name

    @cached_property
    def text(self) -> str:
        """
        All of it, without comments.
        """
        return _without_comments("\n".join(path.read_text() for path in sorted(self.folder.glob("*.tf"))))

    @cached_property
    def blocks(self) -> dict[str, list[Any]]:
        """
        By kind: variable, output, resource, data, module, locals.
        """
        found: dict[str, list[Any]] = {}
        for path in sorted(self.folder.glob("*.tf")):
            for kind, blocks in _parsed(_without_comments(path.read_text())).items():
                found.setdefault(kind, []).extend(blocks)
        return found

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


def _without_comments(text: str) -> str:
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


# Of a file: most tests change one of several.
@cache
def _parsed(text: str) -> dict[str, list[Any]]:
    return _plain(hcl2.loads(text))  # type: ignore[no-any-return]


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
    there = {**module.resources(), **{f"data.{name}": body for name, body in module.resources("data").items()}}
    for rule in _RULES.get(module.name, ()):
        found = {name: body for name, body in there.items() if f"{name}.".startswith(f"{rule.kind}.")}
        if not found:
            yield f"there is no {rule.kind}"
        yield from (f"{name}: {rule.says}" for name, body in found.items() if not rule.holds(body))
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


def _true(*keys: str) -> Callable[[dict[str, Any]], bool]:
    return lambda body: all(body.get(key) is True for key in keys)


def _parameter(body: dict[str, Any], name: str, value: str) -> bool:
    return {"name": name, "value": value} in body.get("parameter", [])


def _statements(body: dict[str, Any], effect: str) -> list[dict[str, Any]]:
    return [each for each in body["statement"] if each.get("effect", "Allow") == effect]


def _only_by_tls(body: dict[str, Any]) -> bool:
    plain = {"test": "Bool", "variable": "aws:SecureTransport", "values": ["false"]}
    refused = [each for each in _statements(body, "Deny") if "".join(map(str, each["actions"])).strip('"') == "s3:*"]
    return any(plain in _plain(each.get("condition", [])) for each in refused)


def _only_this_distribution(body: dict[str, Any]) -> bool:
    return all(
        each["condition"][0]["variable"] == "AWS:SourceArn"
        and "aws_cloudfront_distribution.this.arn" in str(each["condition"][0]["values"])
        and "local.served" in str(each["resources"])
        for each in _statements(body, "Allow")
    )


def _no_wildcards(body: dict[str, Any]) -> bool:
    return all("*" not in str(each["actions"]) for each in _statements(body, "Allow"))


def _opens_two_prefixes(body: dict[str, Any]) -> bool:
    behaviours = [each for one in body["dynamic"] for each in one.values()]
    return all("local.open" in str(each["for_each"]) for each in behaviours)


def _by_tls(body: dict[str, Any]) -> bool:
    contents = [one for each in body["dynamic"] for behaviour in each.values() for one in behaviour["content"]]
    policies = [one["viewer_protocol_policy"] for one in (*body["default_cache_behavior"], *contents)]
    return set(policies) <= {"https-only", "redirect-to-https"}


_DISTRIBUTION = "aws_cloudfront_distribution"
_REPLICATION = "aws_elasticache_replication_group"
_BUCKET_POLICY = "data.aws_iam_policy_document.bucket"
_RULES: dict[str, tuple[_Rule, ...]] = {
    "postgres": (
        _Rule("aws_db_instance", _true("storage_encrypted"), "not encrypted"),
        _Rule("aws_db_instance", lambda body: body.get("publicly_accessible") is False, "public"),
        _Rule("aws_db_instance", lambda body: "password" not in body, "its password is in the state"),
        _Rule("aws_db_instance.primary", _true("multi_az"), "in one zone"),
        _Rule("aws_db_instance.primary", lambda body: "password_wo" in body, "no password"),
        _Rule("aws_db_parameter_group", lambda body: "local.parameters" in str(body["dynamic"]), "without parameters"),
        _Rule("aws_vpc_security_group_ingress_rule", lambda body: "referenced_security_group_id" in body, "too open"),
    ),
    "valkey": (
        _Rule(_REPLICATION, _true("transit_encryption_enabled"), "no TLS"),
        _Rule(_REPLICATION, lambda body: body.get("transit_encryption_mode") == "required", "TLS is not required"),
        _Rule(_REPLICATION, _true("at_rest_encryption_enabled"), "not encrypted"),
        _Rule(_REPLICATION, _true("multi_az_enabled", "automatic_failover_enabled"), "in one zone"),
        _Rule(_REPLICATION, lambda body: "auth_token" in body, "no password"),
        _Rule(
            "aws_elasticache_parameter_group",
            lambda body: _parameter(body, "maxmemory-policy", "volatile-lru"),
            "it does not let the right things go when it is full",
        ),
        _Rule("aws_vpc_security_group_ingress_rule", lambda body: "referenced_security_group_id" in body, "too open"),
    ),
    "assets": (
        _Rule(
            "aws_s3_bucket_public_access_block",
            _true("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"),
            "does not block all public access",
        ),
        _Rule("aws_s3_bucket_server_side_encryption_configuration", lambda _: True, ""),
        _Rule("aws_s3_bucket_policy", lambda body: f"{_BUCKET_POLICY}.json" in body["policy"], "another policy"),
        _Rule(_BUCKET_POLICY, _only_by_tls, "plain HTTP is not refused"),
        _Rule(_BUCKET_POLICY, _only_this_distribution, "others may read"),
        _Rule("data.aws_iam_policy_document", _no_wildcards, "more rights than are needed"),
        _Rule("aws_cloudfront_origin_access_control", lambda body: body["signing_behavior"] == "always", "unsigned"),
        _Rule(
            _DISTRIBUTION,
            lambda body: all("origin_access_control_id" in one for one in body["origin"]),
            "no access control",
        ),
        _Rule(
            _DISTRIBUTION,
            lambda body: all("trusted_key_groups" in one for one in body["default_cache_behavior"]),
            "open where nothing else is said",
        ),
        _Rule(_DISTRIBUTION, _opens_two_prefixes, "more is open than local.open"),
        _Rule(_DISTRIBUTION, _by_tls, "plain HTTP"),
    ),
}


def test_only_public_prefixes_are_open() -> None:
    """
    Without a signature the edge serves what the gateway serves without one, and what needs one is all the rest: the
    compressed variants of private assets, too.
    """
    (local,) = Module(TERRAFORM / "modules" / "assets").blocks["locals"][:1]
    assert local["open"] == ["assets/*", "static/*"]
    assert set(local["served"]) == {"assets", "static", "private", "versions"}
    names = {asset_key("0" * 64, private=False).split("/")[0], "static"}
    assert {each.partition("/")[0] for each in local["open"]} == names


def test_everybody_speaks_tls_to_postgresql() -> None:
    """
    The parameter that refuses plain connections is on.
    """
    (local,) = [each for each in Module(TERRAFORM / "modules" / "postgres").blocks["locals"] if "parameters" in each]
    assert local["parameters"]["rds.force_ssl"]["value"] == "1"


def test_nothing_is_open(module: Module) -> None:
    """
    Everything is encrypted and reached by TLS and with rights only; no secret is in it.
    """
    assert list(closed(module)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("postgres", r"storage_encrypted +=.*", "storage_encrypted = false", "not encrypted"),
        ("postgres", r"publicly_accessible +=.*", "publicly_accessible = true", "public"),
        ("postgres", r"password_wo +=.*", 'password = "x"', "its password is in the state"),
        ("postgres", r"password_wo +=.*", "", "no password"),
        ("postgres", r"multi_az +=.*", "multi_az = false", "in one zone"),
        ("postgres", r"local\.parameters", "{}", "without parameters"),
        ("postgres", r"sensitive +=.*", "", "variable owner_password is not sensitive"),
        ("valkey", r"transit_encryption_enabled +=.*", "transit_encryption_enabled = false", "no TLS"),
        ("valkey", r'"required"', '"preferred"', "TLS is not required"),
        ("valkey", r"at_rest_encryption_enabled +=.*", "", "not encrypted"),
        ("valkey", r"multi_az_enabled +=.*", "", "in one zone"),
        ("valkey", r"auth_token +=.*", "", "no password"),
        ("valkey", r"volatile-lru", "noeviction", "it does not let the right"),
        ("valkey", r"sensitive +=.*", "", "variable password is not sensitive"),
        ("valkey", r"referenced_security_group_id +=.*", 'cidr_ipv4 = "0.0.0.0/0"', "open to all"),
        ("valkey", r"referenced_security_group_id +=.*", 'cidr_ipv4 = "10.0.0.0/8"', "too open"),
        ("assets", r"ignore_public_acls +=.*", "", "does not block all public access"),
        ("assets", r"aws_s3_bucket_public_access_block\b", "aws_s3_bucket_website", "there is no aws_s3_bucket_public"),
        ("assets", r"aws_s3_bucket_server_side_enc\w+", "aws_s3_bucket_website", "there is no aws_s3_bucket_server"),
        ("assets", r"effect +=.*", "", "plain HTTP is not refused"),
        ("assets", r'\["false"\]', '["true"]', "plain HTTP is not refused"),
        ("assets", r"AWS:SourceArn", "AWS:SourceAccount", "others may read"),
        ("assets", r"\[for prefix in local.served .*", '["*"]', "others may read"),
        ("assets", r'"s3:GetObject",\n', '"s3:*",\n', "more rights than are needed"),
        ("assets", r"origin_access_control_id +=.*", "", "no access control"),
        ("assets", r'"always"', '"never"', "unsigned"),
        ("assets", r'"redirect-to-https"', '"allow-all"', "plain HTTP"),
        ("assets", r'"https-only"', '"allow-all"', "plain HTTP"),
        ("assets", r"trusted_key_groups +=.*", "", "open where nothing else is said"),
        ("assets", r"for_each = local\.open", 'for_each = ["*"]', "more is open"),
    ],
)
def test_what_is_open_is_found(name: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    """
    Each of these changes makes something open, and is found.
    """
    changed = 0
    folder = tmp_path / name
    folder.mkdir()
    for path in (TERRAFORM / "modules" / name).glob("*.tf"):
        text, count = re.subn(old, new.replace("\\", ""), path.read_text())
        changed += count
        (folder / path.name).write_text(text)
    assert changed
    assert says in "\n".join(closed(Module(folder)))


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
