"""
The namespaces that do not exist for the caller of the call in progress: see `PermissionInterceptor`. The call is made
for stand-ins. What depends on the text of the request, and not on what there is, goes by the request as it was sent:
otherwise it would tell a hidden namespace from a missing one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_hidden: ContextVar[Mapping[str, str]] = ContextVar("modelyard_hidden", default=_NONE)


def hide(standins: Mapping[str, str]) -> None:
    """
    Record what the call in progress hides; every call does, since a task may serve one after the other.

    Args:
        standins: the ids that stand for hidden namespaces, by the ids of these.
    """
    if standins or _hidden.get():
        _hidden.set({standin: namespace for namespace, standin in standins.items()})


def hidden() -> Mapping[str, str]:
    """
    The ids of hidden namespaces, by the ids that stand for them.
    """
    return _hidden.get()


def as_asked(text: str, names: Mapping[str, str] | None = None) -> str:
    """
    A text with the ids of hidden namespaces in the place of those that stand for them.

    Args:
        names: as of `hidden`, which is the default.
    """
    for standin, namespace in (hidden() if names is None else names).items():
        text = text.replace(standin, namespace)
    return text
