"""
What the generated pages are made from: the modules of the services, imported or parsed, without their tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
#: The services' packages and their titles: shared ones first, then in the order in which a call meets them.
TITLES = {
    "services.chassis": "Every service",
    "services.ledger": "Services with a database (registry and cdn)",
    "services.cache": "Cache",
    "services.registry": "Registry",
    "services.cdn": "Asset service (cdn)",
    "services.doors": "Doors for the clients of other registries",
}


def files(*packages: str) -> list[Path]:
    """
    The Python files of packages, such as `services`, relative to the repository; tests excepted.
    """
    found = (path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in found if "tests" not in path.parts)


@cache
def modules(package: str, mention: str) -> tuple[ModuleType, ...]:
    """
    The modules of a package whose source mentions something, imported. Programs (`__main__`) and migrations are
    left out, because they read the environment.
    """
    names = [path.with_suffix("").parts for path in files(package) if mention in (ROOT / path).read_text()]
    return tuple(
        import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        for parts in names
        if parts[-1] != "__main__" and "migrations" not in parts
    )


def classes(package: str, mention: str) -> list[type]:
    """
    The classes that the modules of a package define whose source mentions something, by module and name.
    """
    found = {
        each
        for module in modules(package, mention)
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
    }
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


@cache
def tree(path: Path) -> ast.Module:
    """
    The syntax tree of a file of the repository.
    """
    return ast.parse((ROOT / path).read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """
    All nodes of that tree: several pages go through those of each file.
    """
    return tuple(ast.walk(tree(path)))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """
    The calls in a file with the last part of what is called: `Gauge`, or `of` of `InvalidArgument.of`.
    """
    for node in nodes(path):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node
