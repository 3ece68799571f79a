"""
Namespaces over a real channel.
"""

from __future__ import annotations

import grpc

from modelyard.registry.v1 import namespaces_pb2 as pb
from services.registry.tests.server import Failing, Registry


async def make(registry: Registry, name: str, namespace: pb.Namespace | None = None) -> pb.Namespace:
    """
    Create a namespace.
    """
    return await registry.namespaces.CreateNamespace(pb.CreateNamespaceRequest(namespace_id=name, namespace=namespace))


async def test_default_is_there(registry: Registry) -> None:
    """
    `default` exists from the start, made by revision 1.
    """
    found = await registry.namespaces.GetNamespace(pb.GetNamespaceRequest(name="namespaces/default"))
    assert (found.name, found.revision) == ("namespaces/default", 1)


async def test_create_then_get(registry: Registry) -> None:
    """
    A namespace is returned as it was created, with the fields that the server sets.
    """
    sent = pb.Namespace(
        display_name="Vision",
        description="d",
        owner="o",
        labels={"k": "v"},
        quota=pb.Namespace.Quota(max_models=5, max_asset_bytes=2**63 - 1),
    )
    made = await make(registry, "vision", sent)
    found = await registry.namespaces.GetNamespace(pb.GetNamespaceRequest(name="namespaces/vision"))
    assert made == found
    for field in ("name", "create_time", "update_time", "revision", "etag"):
        found.ClearField(field)
    assert found == sent
    with Failing() as failed:
        await make(registry, "vision")
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAMESPACE_EXISTS")


async def test_list(registry: Registry) -> None:
    """
    Namespaces are listed by name, page by page.
    """
    for name in ("b", "Z", "a"):
        await make(registry, name)
    names, token = [], ""
    while True:
        request = pb.ListNamespacesRequest(page_size=3, page_token=token)
        page = await registry.namespaces.ListNamespaces(request)
        names.append([each.name.removeprefix("namespaces/") for each in page.namespaces])
        token = page.next_page_token
        if not token:
            break
    assert names == [["Z", "a", "b"], ["default"]]


async def test_missing(shared: Registry) -> None:
    """
    A namespace that is not there is NOT_FOUND, by name.
    """
    with Failing() as failed:
        await shared.namespaces.GetNamespace(pb.GetNamespaceRequest(name="namespaces/none"))
    assert (failed.reason, failed.metadata["resource"]) == ("NAMESPACE_NOT_FOUND", "namespaces/none")
    assert int(failed.trailing["x-revision"]) >= 1
