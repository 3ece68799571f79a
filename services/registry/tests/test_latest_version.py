"""
A model that gets a version is another one.
"""

from __future__ import annotations

from modelyard.registry.v1 import models_pb2, versions_pb2
from services.registry.tests.calls import DEFAULT, create, get, revisions
from services.registry.tests.server import Failing, Registry


async def test_a_version_moves_its_model(registry: Registry) -> None:
    """
    With latest_version move revision, etag and update_time: one content has one etag, the change stream names the
    model, and the newest update is found first.
    """
    before = await create(registry, "m")
    await create(registry, "later")
    request = versions_pb2.CreateVersionRequest(parent=before.name)
    version = await registry.versions.CreateVersion(request)
    model = await get(registry, "m")
    assert (model.latest_version, model.revision, model.update_time) == (1, version.revision, version.create_time)
    assert model.etag == version.etag != before.etag
    assert model.create_time == before.create_time
    (told,) = await revisions(registry, version.revision, version.revision)
    assert [(each.resource, each.kind) for each in told.changes] == [(version.name, 1), (before.name, 2)]
    search = models_pb2.SearchModelsRequest(parent=DEFAULT, order_by="update_time desc")
    found = await registry.models.SearchModels(search)
    assert [each.name.rpartition("/")[2] for each in found.models] == ["m", "later"]
    delete = models_pb2.DeleteModelRequest(name=before.name, etag=before.etag)
    with Failing() as failed:
        await registry.models.DeleteModel(delete)
    assert failed.reason == "ETAG_MISMATCH"
