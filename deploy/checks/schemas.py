"""
Kubernetes' own schemas, strictly: a field that a version does not know is an error, as `kubectl apply` would have it.
"""

from __future__ import annotations

from collections.abc import Iterator

import kubernetes_validate

from deploy.checks.suite import Suite

#: Minor versions of Kubernetes: the oldest that docs/operations/install.md promises, one between, and the newest known.
VERSIONS = ("1.33", "1.35", "1.37")
#: Groups of operators: see operators.py.
OPERATED = (
    "barmancloud.cnpg.io",
    "cert-manager.io",
    "external-secrets.io",
    "monitoring.coreos.com",
    "postgresql.cnpg.io",
)


def invalid(suite: Suite, version: str) -> Iterator[str]:
    """
    What a version of Kubernetes would not take.
    """
    for each in suite.objects:
        if each["apiVersion"].split("/")[0] in OPERATED:
            continue
        name = f"{each['kind']} {each['metadata']['name']}"
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name}: Kubernetes {version} has no {each['apiVersion']} {each['kind']}"
