"""
Labels and annotations that are set and removed one at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import audit_pb2, models_pb2, namespaces_pb2, versions_pb2
from services.registry.tests.calls import DEFAULT, add_version, create, get, update
from services.registry.tests.server import Failing, Registry

M = f"{DEFAULT}/models/m"


async def label_model(registry: Registry, paths: list[str], labels: dict[str, str]) -> dict[str, str]:
    """
    Label m.
    """
    return dict((await update(registry, "m", models_pb2.Model(labels=labels), paths)).labels)


async def label_version(registry: Registry, paths: list[str], labels: dict[str, str]) -> dict[str, str]:
    """
    Label version 1 of m.
    """
    content = versions_pb2.Version(name=f"{M}/versions/1", labels=labels)
    request = versions_pb2.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=paths))
    return dict((await registry.versions.UpdateVersion(request)).labels)


async def label_namespace(registry: Registry, paths: list[str], labels: dict[str, str]) -> dict[str, str]:
    """
    Label the namespace.
    """
    content = namespaces_pb2.Namespace(name=DEFAULT, labels=labels)
    request = namespaces_pb2.UpdateNamespaceRequest(namespace=content, update_mask=FieldMask(paths=paths))
    return dict((await registry.namespaces.UpdateNamespace(request)).labels)


@pytest.mark.parametrize("label", [label_model, label_version, label_namespace])
async def test_one_at_a_time(registry: Registry, label: Any) -> None:
    """
    A mask can name one label: it is set, or removed where the request has none; others stay, whatever the request says.
    """
    await create(registry, "m")
    await add_version(registry, "m")
    assert await label(registry, ["labels"], {"a": "1", "b": "2"}) == {"a": "1", "b": "2"}
    assert await label(registry, ["labels.c"], {"c": "3", "a": "other"}) == {"a": "1", "b": "2", "c": "3"}
    assert await label(registry, ["labels.a", "labels.b"], {"a": "9"}) == {"a": "9", "c": "3"}
    assert await label(registry, ["labels.none"], {}) == {"a": "9", "c": "3"}


async def test_two_who_label_keep_each_others(registry: Registry) -> None:
    """
    Labels that are set at the same time are all there, without an etag and without a retry.
    """
    await create(registry, "m")
    await asyncio.gather(*(label_model(registry, [f"labels.k{n}"], {f"k{n}": "x"}) for n in range(32)))
    assert set((await get(registry, "m")).labels) == {f"k{n}" for n in range(32)}


async def test_keys_with_dots_and_quotes(registry: Registry) -> None:
    """
    Everything behind the first dot is the key, and it may stand in backticks.
    """
    await create(registry, "m")
    labels = {"mlflow.source-type": "x", "a": "y"}
    assert await label_model(registry, ["labels.mlflow.source-type", "labels.`a`"], labels) == labels
    assert await label_model(registry, ["labels.`mlflow.source-type`"], {}) == {"a": "y"}


async def test_annotations(registry: Registry) -> None:
    """
    Annotations of a model go one at a time, too, together with whole fields.
    """
    await create(registry, "m", models_pb2.Model(annotations={"a": "1"}))
    changed = await update(
        registry, "m", models_pb2.Model(annotations={"b": "2"}, owner="o"), ["annotations.b", "owner"]
    )
    assert (dict(changed.annotations), changed.owner) == ({"a": "1", "b": "2"}, "o")


async def test_bounds(registry: Registry) -> None:
    """
    The bounds of labels hold for one at a time: of the value, of the key, and of how many there are then.
    """
    full = {f"k{n:02}": "" for n in range(256)}
    await create(registry, "m", models_pb2.Model(labels=full))
    with Failing() as failed:
        await label_model(registry, ["labels.more"], {"more": ""})
    assert list(failed.fields) == ["labels"]
    with Failing() as failed:
        await label_model(registry, ["labels.k00"], {"k00": "x" * 257})
    assert list(failed.fields) == ['model.labels["k00"]']
    with Failing() as failed:
        await label_model(registry, ["labels." + "K" * 251], {"K" * 251: "x"})
    assert len(failed.fields) == 1
    assert len(await label_model(registry, ["labels.k00", "labels.more"], {"more": "1"})) == 256


async def test_keys_of_any_text(registry: Registry) -> None:
    """
    A key is any text of 250 characters without control characters; a mask names it by all that follows the first dot.
    """
    await create(registry, "m")
    labels = {"mlflow.Source Type": "x", 'a, b: `c` = "d"': "y", "é" * 250: "z"}
    for key in labels:
        await label_model(registry, [f"labels.{key}"], labels)
    assert dict((await get(registry, "m")).labels) == labels
    for key in ("a\nb", "\x7f", "", "x" * 251):
        with Failing() as failed:
            await label_model(registry, ["labels"], {key: ""})
        assert [each.startswith("model.labels[") for each in failed.fields] == [True]


async def test_annotations_of_a_version(registry: Registry) -> None:
    """
    A READY version's annotations, description, stage and run link change; its source does not, nor does its lineage.
    """
    await create(registry, "m")
    await add_version(registry, "m", annotations={"a": "1"}, source="s3://a", source_model_id="m-1")
    content = versions_pb2.Version(
        name=f"{M}/versions/1", annotations={"b": "2"}, description="d", stage="Production", run_link="r"
    )
    paths = ["annotations.b", "description", "stage", "run_link"]
    request = versions_pb2.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=paths))
    changed = await registry.versions.UpdateVersion(request)
    assert (dict(changed.annotations), changed.description, changed.stage) == ({"a": "1", "b": "2"}, "d", "Production")
    assert (changed.run_link, changed.source, changed.source_model_id) == ("r", "s3://a", "m-1")
    for path, reason in (
        ("source", "INVALID_FIELDS"),
        ("source_model_id", "INVALID_FIELDS"),
        ("lineage", "VERSION_IMMUTABLE"),
    ):
        request = versions_pb2.UpdateVersionRequest(version=content, update_mask=FieldMask(paths=[path]))
        with Failing() as failed:
            await registry.versions.UpdateVersion(request)
        assert failed.reason == reason


@pytest.mark.parametrize(
    ("annotations", "field"),
    [
        ({"a": "é" * 50_001}, 'version.annotations["a"]'),
        ({f"k{n:02}": "x" * 99_000 for n in range(11)}, "version.annotations"),
        ({f"k{n}": "" for n in range(257)}, "version.annotations"),
        ({"a\n": ""}, 'version.annotations["a\\n"]'),
        ({"a": "\0"}, 'version.annotations["a"]'),
    ],
)
async def test_bounds_of_annotations(shared: Registry, annotations: dict[str, str], field: str) -> None:
    """
    Values of 100,000 bytes, 1 MiB in all, 256 entries, keys without control characters, no NUL.
    """
    with Failing() as failed:
        await add_version(shared, "m", annotations=annotations)
    assert list(failed.fields) == [field]


async def test_annotations_one_at_a_time_are_bounded(registry: Registry) -> None:
    """
    Annotations that are set one at a time have 1 MiB in all, too; a smaller one may take the place of a large one.
    """
    await create(registry, "m", models_pb2.Model(annotations={f"k{n:02}": "x" * 100_000 for n in range(10)}))
    with Failing() as failed:
        content = models_pb2.Model(annotations={"more": "x" * 60_000})
        await update(registry, "m", content, ["annotations.more"])
    assert list(failed.fields) == ["annotations"]
    await update(registry, "m", models_pb2.Model(annotations={"k00": "x" * 60_000}), ["annotations.k00"])


async def test_searched_and_audited(registry: Registry) -> None:
    """
    A search finds the model by a label that was set alone, and the audit has the labels as they were and are.
    """
    await create(registry, "m", models_pb2.Model(labels={"a": "1"}))
    await label_model(registry, ["labels.team"], {"team": "vision"})
    request = models_pb2.SearchModelsRequest(parent=DEFAULT, filter="labels.team = vision AND labels.a = 1")
    assert len((await registry.models.SearchModels(request)).models) == 1
    entries = await registry.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(action="UpdateModel"))
    (entry,) = [json_format.MessageToDict(each) for each in entries.entries]
    assert (entry["before"]["labels"], entry["after"]["labels"]) == ({"a": "1"}, {"a": "1", "team": "vision"})
