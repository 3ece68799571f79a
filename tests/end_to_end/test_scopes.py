"""
What a caller has to be allowed to do, as the contracts say it.
"""

from __future__ import annotations

from google.protobuf.descriptor import MethodDescriptor

from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import scopes, services

SCOPES = {
    *("registry.read", "registry.write", "registry.follow"),
    *("assets.read", "assets.write", "assets.sign", "assets.pin"),
    "static.write",
    *("cache.read", "cache.write", "cache.admin"),
    "admin",
}


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _is_cached(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().HasExtension(policy_pb2.policy))


def test_every_rpc_names_its_scope() -> None:
    """
    Each RPC asks for one of the known scopes.
    """
    paths = {_path(method) for service in services() for method in service.methods}
    assert scopes().keys() == paths
    assert set(scopes().values()) == SCOPES


def test_what_is_cached_is_only_read() -> None:
    """
    What the cache may answer asks for no more than reading: it answers everybody alike.
    """
    cached = [method for service in services() for method in service.methods if _is_cached(method)]
    assert cached
    assert {scopes()[_path(method)].rpartition(".")[2] for method in cached} == {"read"}
