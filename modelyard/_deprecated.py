"""
Former names of the public API: they still work, with a DeprecationWarning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any


def aliases(module: str, names: Mapping[str, tuple[str, Any]]) -> Callable[[str], Any]:
    """
    The `__getattr__` of a module whose names have changed.

    Args:
        module: the module's name.
        names: by old name, the new name and the object.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, value = names[name]
        warnings.warn(f"{module}.{name} is deprecated: use {new}", DeprecationWarning, stacklevel=2)
        return value

    return look_up
