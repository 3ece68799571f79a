"""
Routes of the doors: the protocols of MLflow, the Hugging Face Hub and OCI registries.

They are written by hand: no contract describes them. What needs a token is decided by the doors and the services behind
them, which say so in the form of the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_NAME: Final = "[^/]+"
#: By the name of each route: what it matches.
_MATCHES: Final[Mapping[str, Mapping[str, object]]] = {
    "mlflow": {"prefix": "/api/2.0/mlflow"},
    "mlflow-3": {"prefix": "/api/3.0/mlflow/"},
    "mlflow-namespace": {"prefix": "/mlflow/"},
    "oci": {"prefix": "/v2/"},
    "oci-version": {"path": "/v2"},
    "hub": {"prefix": "/api/"},
    "hub-files": {"safe_regex": {"regex": f"/(?:{_NAME}/)?{_NAME}/(?:resolve|raw)/.+"}},
    "hub-lfs": {"safe_regex": {"regex": rf"/(?:{_NAME}/)?{_NAME}\.git/info/lfs/.+"}},
    "hub-xet": {"prefix": "/xet/"},
}


def cluster(endpoints: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """
    The cluster, for the template; without endpoints there is none.
    """
    return [{"endpoints": list(endpoints)}] if endpoints else []


def routes() -> list[dict[str, object]]:
    """
    The routes, for the template: the name and the match of each, the first match wins.
    """
    return [{"name": f"doors-{name}", "match": match} for name, match in _MATCHES.items()]
