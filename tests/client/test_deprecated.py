"""
The former names of the public API: they still work and warn.
"""

from __future__ import annotations

import importlib

import pytest

import modelyard


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("modelyard", "Outgoing", modelyard.UploadSource),
        ("modelyard", "Progress", modelyard.ProgressCallback),
        ("modelyard.transfer", "Outgoing", modelyard.UploadSource),
        ("modelyard.transfer", "Progress", modelyard.ProgressCallback),
        ("modelyard.problems", "Problem", modelyard.Problem),
        ("modelyard.problems", "Violation", modelyard.Violation),
        ("modelyard.problems", "explain", modelyard.explain),
    ],
)
def test_former_names(module: str, old: str, new: object) -> None:
    """
    A former name is the same object as the new one, and its warning says what to use instead.
    """
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{old} is deprecated: use modelyard\.\w+"):
        assert getattr(importlib.import_module(module), old) is new


def test_unknown_names() -> None:
    """
    Any other name is an AttributeError, as of every module.
    """
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = modelyard.Nothing  # type: ignore[attr-defined]
