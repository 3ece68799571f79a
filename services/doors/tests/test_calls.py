"""
What the doors ask the other services, whatever the protocol; without servers.
"""

from __future__ import annotations

from typing import Any

import pytest

from modelyard.registry.v1 import models_pb2, versions_pb2
from services.doors.tests.fakes import Fake, ask

VERSION = "/api/2.0/mlflow/model-versions"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/models/wine", b""),
        ("GET", "/api/models/wine/auth-check", b""),
        ("HEAD", "/wine/resolve/main/a", b""),
        ("GET", f"{VERSION}/get-download-uri?name=wine&version=1", b""),
        ("POST", f"{VERSION}/create", b'{"name": "copy", "source": "models:/wine/1"}'),
        ("GET", f"{ARTIFACTS}?path=models/wine/versions/1", b""),
        ("GET", f"{ARTIFACTS}/models/wine/versions/1/a", b""),
    ],
)
def test_a_deleted_model_has_no_files(method: str, path: str, body: bytes) -> None:
    """
    The registry tells of a deleted model and of its versions until it is purged: here they are not found.
    """
    artifacts = [versions_pb2.Artifact(path="a", sha256="0" * 64, size_bytes=4)]
    version = versions_pb2.Version(number=1, state=versions_pb2.Version.STATE_READY, artifacts=artifacts)
    model = models_pb2.Model(name="namespaces/default/models/wine")
    answers: dict[str, Any] = {"GetVersion": version, "ResolveVersion": version, "GetModel": model}
    assert ask(Fake(**answers), method, path, body)[0] < 400
    model.delete_time.GetCurrentTime()
    assert ask(Fake(**answers), method, path, body)[0] == 404
