"""
The full view of models, who made them, and when something of them last happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import models_pb2, versions_pb2
from services.registry.tests.calls import DEFAULT, add_version, create, get, move
from services.registry.tests.server import Failing, Registry

M = f"{DEFAULT}/models/m"


async def full(registry: Registry, name: str = M) -> models_pb2.Model:
    """
    A model in the full view.
    """
    request = models_pb2.GetModelRequest(name=name, view=models_pb2.MODEL_VIEW_FULL)
    return await registry.models.GetModel(request)


async def searched(registry: Registry, **more: Any) -> list[models_pb2.Model]:
    """
    All models in the full view, all pages.
    """
    models: list[models_pb2.Model] = []
    token = ""
    while True:
        request = models_pb2.SearchModelsRequest(
            parent=DEFAULT, view=models_pb2.MODEL_VIEW_FULL, page_token=token, **more
        )
        page = await registry.models.SearchModels(request)
        models += page.models
        token = page.next_page_token
        if not token:
            return models


def shown(model: models_pb2.Model) -> tuple[list[str], list[tuple[str, int]]]:
    """
    The ids of its aliases; stage and number of its newest versions.
    """
    aliases = [each.name.rpartition("/")[2] for each in model.aliases]
    return aliases, [(each.stage, each.number) for each in model.newest]


async def test_full_view(registry: Registry) -> None:
    """
    The full view has the aliases by id and the newest PENDING or READY version of each stage, the newest first; a
    search returns the same as a get; and in the basic view there is nothing of this.
    """
    await create(registry, "m")
    await create(registry, "empty")
    for stage in ("Production", "", "Production", "Staging", "Staging"):
        await add_version(registry, "m", stage=stage)
    artifact = versions_pb2.Artifact(path="w", sha256="a" * 64, size_bytes=7)
    await add_version(registry, "m", ready=False, artifacts=[artifact])
    await registry.versions.DeleteVersion(versions_pb2.DeleteVersionRequest(name=f"{M}/versions/5"))
    await move(registry, "m", ("b", 1), ("A", 3), ("gone", 1))
    await move(registry, "m", ("gone", 0))
    model = await full(registry)
    assert shown(model) == (["A", "b"], [("", 6), ("Staging", 4), ("Production", 3)])
    assert (list(model.newest[0].artifacts), model.newest[0].size_bytes) == ([], 7)
    request = versions_pb2.GetVersionRequest(name=f"{M}/versions/4")
    assert model.newest[1] == await registry.versions.GetVersion(request)
    for order in ("", "name"):
        assert {each.name: each for each in await searched(registry, order_by=order)} == {
            M: model,
            f"{DEFAULT}/models/empty": await full(registry, f"{DEFAULT}/models/empty"),
        }
    basic = await get(registry, "m")
    assert shown(basic) == ([], [])
    del model.aliases[:], model.newest[:]
    assert basic == model
    with Failing() as failed:
        await full(registry, f"{DEFAULT}/models/none")
    assert failed.reason == "MODEL_NOT_FOUND"


async def test_many_stages(registry: Registry) -> None:
    """
    A full view has the newest versions of 100 stages at most, and of large ones fewer.
    """
    await create(registry, "m")
    await create(registry, "large")
    for stage in range(102):
        await add_version(registry, "m", stage=f"s{stage:03}")
    for stage in range(3):
        await add_version(registry, "large", stage=f"s{stage}", annotations={f"k{n}": "x" * 99_000 for n in range(10)})
    assert len((await full(registry)).newest) == 100
    assert [each.number for each in (await full(registry, f"{DEFAULT}/models/large")).newest] == [3]


async def test_full_pages_fit_a_message(registry: Registry) -> None:
    """
    A page in the full view ends where the answer would become too large, and the next one continues.
    """
    for model in range(6):
        await create(registry, f"m{model}")
        await add_version(registry, f"m{model}", annotations={f"k{n}": "x" * 99_000 for n in range(10)})
    request = models_pb2.SearchModelsRequest(parent=DEFAULT, view=models_pb2.MODEL_VIEW_FULL)
    assert 1 <= len((await registry.models.SearchModels(request)).models) < 6
    assert {each.name[-2:] for each in await searched(registry)} == {f"m{model}" for model in range(6)}


async def change(registry: Registry, **fields: Any) -> None:
    """
    Update version 1.
    """
    content = versions_pb2.Version(name=f"{M}/versions/1", **fields)
    mask = FieldMask(paths=list(fields))
    await registry.versions.UpdateVersion(versions_pb2.UpdateVersionRequest(version=content, update_mask=mask))


async def delete(registry: Registry, number: int) -> None:
    """
    Delete a version.
    """
    await registry.versions.DeleteVersion(versions_pb2.DeleteVersionRequest(name=f"{M}/versions/{number}"))


@pytest.mark.parametrize(
    ("act", "counts"),
    [
        (lambda registry: add_version(registry, "m", ready=False), True),
        (lambda registry: change(registry, stage="Production"), True),
        (lambda registry: delete(registry, 1), True),
        (lambda registry: delete(registry, 2), True),
        (
            lambda registry: registry.versions.FinalizeVersion(
                versions_pb2.FinalizeVersionRequest(name=f"{M}/versions/3")
            ),
            True,
        ),
        (
            lambda registry: registry.versions.FailVersion(versions_pb2.FailVersionRequest(name=f"{M}/versions/3")),
            True,
        ),
        (lambda registry: change(registry, stage=""), False),
        (lambda registry: change(registry, description="d", labels={"a": "b"}), False),
        (lambda registry: move(registry, "m", ("a", 1)), False),
    ],
)
async def test_activity(registry: Registry, act: Callable[[Registry], Awaitable[Any]], counts: bool) -> None:
    """
    Something happens to a model when a version is made, deleted, or changes its state or stage; not when other fields
    of one change, or aliases.
    """
    await create(registry, "m")
    for ready in (True, True, False):
        await add_version(registry, "m", ready=ready)
    before = await get(registry, "m")
    await act(registry)
    after = await get(registry, "m")
    assert (after.activity_time.ToNanoseconds() > before.activity_time.ToNanoseconds()) == counts
    assert after.activity_time.ToNanoseconds() >= after.update_time.ToNanoseconds()
