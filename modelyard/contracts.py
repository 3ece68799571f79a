"""
The descriptors of the contracts, for code that reads their options and routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import walk_packages

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

import modelyard
from modelyard.access.v1 import access_pb2


def services() -> list[ServiceDescriptor]:
    """
    Every service of the contracts, by its full name.
    """
    pool = descriptor_pool.Default()
    found: dict[str, ServiceDescriptor] = {}
    for module in walk_packages(modelyard.__path__, "modelyard."):
        if module.name.endswith("_pb2"):
            file = pool.FindFileByName(import_module(module.name).DESCRIPTOR.name)
            found.update({service.full_name: service for service in file.services_by_name.values()})
    return [found[name] for name in sorted(found)]


def scopes() -> dict[str, str]:
    """
    The required scope of each RPC by its path, such as "registry.read" of
    "/modelyard.registry.v1.ModelService/GetModel". RPCs without a scope are left out.
    """
    found = {
        f"/{service.full_name}/{method.name}": method.GetOptions().Extensions[access_pb2.scope]
        for service in services()
        for method in service.methods
    }
    return {path: scope for path, scope in found.items() if scope}


@dataclass(frozen=True, slots=True)
class Permission:
    """
    A permission that an RPC needs.

    Args:
        name: "models.write".
        of: a template over the request's fields that gives the resources: "{parent}". Empty for the registry itself.
        filtered: the service decides item by item.
    """

    name: str
    of: str = ""
    filtered: bool = False


def permissions() -> dict[str, tuple[Permission, ...]]:
    """
    The permissions that each RPC needs, by its path. An RPC whose contract names none is not in it.
    """
    found = {
        f"/{service.full_name}/{method.name}": tuple(
            Permission(each.name, each.of, each.filtered)
            for each in method.GetOptions().Extensions[access_pb2.permission]
        )
        for service in services()
        for method in service.methods
    }
    return {path: needed for path, needed in found.items() if needed}


def is_internal(method: MethodDescriptor) -> bool:
    """
    Whether only services call an RPC, so that the gateway has no route to it.
    """
    return bool(method.GetOptions().Extensions[access_pb2.internal])


def public_services() -> list[str]:
    """
    The full names of the services with at least one RPC for clients.
    """
    return [service.full_name for service in services() if not all(is_internal(method) for method in service.methods)]


def public_scopes() -> dict[str, str]:
    """
    As `scopes`, without the internal RPCs.
    """
    internal = {
        f"/{service.full_name}/{method.name}"
        for service in services()
        for method in service.methods
        if is_internal(method)
    }
    return {path: scope for path, scope in scopes().items() if path not in internal}
