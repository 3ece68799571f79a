"""
Kubernetes' own schemas, strictly: a field that a version does not know is an error, as `kubectl apply` would have it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from deploy.checks.suite import Suite

#: Minor versions of Kubernetes: the oldest that docs/operations/install.md promises, one between, and the newest known.
VERSIONS = ("1.33", "1.35", "1.37")
#: API groups of operators: see operators.py.
OPERATED = (
    "barmancloud.cnpg.io",
    "cert-manager.io",
    "external-secrets.io",
    "monitoring.coreos.com",
    "postgresql.cnpg.io",
)


def invalid(suite: Suite, version: str) -> Iterator[str]:
    """
    The violations of the schemas of a Kubernetes version.
    """
    for each in suite.objects:
        if each["apiVersion"].split("/")[0] in OPERATED:
            continue
        name = f"{each['kind']} {each['metadata']['name']}"
        try:
            validator = _validator(version, each["apiVersion"], each["kind"])
        except FileNotFoundError:
            yield f"{name}: Kubernetes {version} has no {each['apiVersion']} {each['kind']}"
            continue
        for error in validator.iter_errors(each):
            yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"


# `kubernetes_validate.validate` reads all definitions of a version again for each object.
@cache
def _validator(version: str, api_version: str, kind: str) -> Draft202012Validator:
    """
    Raises:
        FileNotFoundError: the version has no such kind.
    """
    # The package names the schemas by the first label of the API group: rbac.authorization.k8s.io/v1 is rbac-v1.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = _schema(version, f"{kind.lower()}-{group}.json")
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    return Resource.from_contents(_schema(version, "_definitions.json")) @ Registry()


def _schema(version: str, name: str) -> Any:
    folder = files(kubernetes_validate) / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    if not folder.is_dir():
        raise LookupError(f"kubernetes-validate has no schemas of Kubernetes {version}")
    return json.loads((folder / name).read_text(encoding="utf-8"))
