"""
Models on the run's suite, as the doors show them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping

import pytest

import modelyard
from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import aliases_pb2, models_pb2, namespaces_pb2, versions_pb2

_numbers = itertools.count(1)
_CHUNK = 1 << 20


@pytest.fixture(scope="module")
def namespace(yard: modelyard.Client, worker: str, request: pytest.FixtureRequest) -> str:
    """
    The id of a namespace for the tests of one file.
    """
    file = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    found = f"doors-{worker}-{file}"
    yard.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=found))
    return found


def store(yard: modelyard.Client, content: bytes) -> str:
    """
    Store bytes as an asset, and return its digest.
    """
    digest = hashlib.sha256(content).hexdigest()
    header = assets_pb2.UploadRequest.Header(sha256=digest, size_bytes=len(content))
    starts = range(0, len(content) or 1, _CHUNK)
    parts = (assets_pb2.Chunk(offset=start, data=content[start : start + _CHUNK]) for start in starts)
    chunks = (assets_pb2.UploadRequest(chunk=part) for part in parts)
    yard.assets.Upload(itertools.chain([assets_pb2.UploadRequest(header=header)], chunks))
    return digest


Publish = Callable[..., str]


@pytest.fixture(scope="module")
def publish(yard: modelyard.Client, namespace: str) -> Publish:
    """
    Creates a version of a model, and the model if there is none, and returns the model's id.
    """

    created: set[str] = set()

    def publish(
        files: Mapping[str, bytes],
        model: str = "",
        alias: str = "",
        *,
        task: str = "",
        framework: str = "",
        license: str = "",  # noqa: A002 - the field's name
    ) -> str:
        model = model or f"m{next(_numbers)}"
        name = f"namespaces/{namespace}/models/{model}"
        if model not in created:
            created.add(model)
            yard.models.CreateModel(
                models_pb2.CreateModelRequest(
                    parent=f"namespaces/{namespace}",
                    model_id=model,
                    model=models_pb2.Model(owner="tests", task=task, framework=framework, license=license),
                )
            )
        artifacts = []
        for path, content in files.items():
            digest = store(yard, content)
            artifacts.append(versions_pb2.Artifact(path=path, sha256=digest, size_bytes=len(content)))
        made = yard.versions.CreateVersion(
            versions_pb2.CreateVersionRequest(parent=name, version=versions_pb2.Version(artifacts=artifacts))
        )
        yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
        if alias:
            move = aliases_pb2.MoveAliasesRequest.Move(alias_id=alias, version=made.name)
            yard.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=name, moves=[move]))
        return model

    return publish
