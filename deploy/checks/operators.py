"""
The schemas of operators' own kinds, from the CustomResourceDefinitions in their sources.

The sources come through the Go module proxy, at pinned versions whose hashes the Go checksum database verifies; Go
keeps them. A field that a definition does not know is an error: Kubernetes would drop it in silence.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from deploy.checks.suite import Suite


class _Loader(yaml.CSafeLoader):
    """
    YAML 1.2 knows no type of its own for "=", which is among the values of a definition.
    """


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


class NoSourcesError(Exception):
    """
    The sources are not available; the message says why.
    """


@dataclass(frozen=True, slots=True)
class Operator:
    """
    Where an operator's definitions are.

    Args:
        group: of its kinds.
        module: of Go, with its version.
        folder: in the module.
    """

    group: str
    module: str
    folder: str

    def definitions(self, kinds: Collection[str]) -> dict[tuple[str, str], dict[str, Any]]:
        """
        The schemas of *kinds* by apiVersion and kind.

        Raises:
            NoSourcesError: there is no Go, or no network.
        """
        if shutil.which("go") is None:
            raise NoSourcesError("no Go toolchain is on PATH, which fetches the operators' definitions")
        command = ["go", "mod", "download", "-json", self.module]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")
        found = json.loads(done.stdout or "{}")
        if "Dir" not in found:
            raise NoSourcesError(f"{self.module} cannot be fetched: {found.get('Error', done.stderr)}")
        schemas: dict[tuple[str, str], dict[str, Any]] = {}
        for path in Path(found["Dir"], self.folder).glob("*.yaml"):
            text = path.read_text(encoding="utf-8")
            if any(f"    kind: {kind}\n" in text for kind in kinds):
                for each in yaml.load_all(text, _Loader):
                    schemas |= _schemas(each["spec"])
        return schemas


OPERATORS = (
    Operator("postgresql.cnpg.io", "github.com/cloudnative-pg/cloudnative-pg@v1.27.0", "config/crd/bases"),
    Operator("barmancloud.cnpg.io", "github.com/cloudnative-pg/plugin-barman-cloud@v0.15.0", "config/crd/bases"),
    Operator("cert-manager.io", "github.com/cert-manager/cert-manager@v1.19.0", "deploy/crds"),
    Operator(
        "monitoring.coreos.com",
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd",
    ),
    Operator("external-secrets.io", "github.com/external-secrets/external-secrets@v0.20.4", "config/crds/bases"),
)


def unknown(suite: Suite, operator: Operator) -> Iterator[str]:
    """
    The violations of an operator's definitions.

    Raises:
        NoSourcesError: as of `Operator.definitions`.
    """
    mine = [each for each in suite.objects if each["apiVersion"].split("/")[0] == operator.group]
    definitions = operator.definitions({each["kind"] for each in mine}) if mine else {}
    for each in mine:
        name = f"{each['kind']} {each['metadata']['name']}"
        schema = definitions.get((each["apiVersion"], each["kind"]))
        if schema is None:
            yield f"{name}: {operator.module} has no {each['apiVersion']} {each['kind']}"
            continue
        for error in Draft202012Validator(schema).iter_errors(each):
            yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"


def _schemas(spec: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (f"{spec['group']}/{one['name']}", spec["names"]["kind"]): _strict(one["schema"]["openAPIV3Schema"], top=True)
        for one in spec["versions"]
    }


def _strict(schema: Any, *, top: bool = False) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    closed = "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields")
    if closed and not top and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found
