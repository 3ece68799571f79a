"""
Error messages for invalid resource names.
"""

from __future__ import annotations

import re
from typing import Final

# The longest part of a name to quote in an error.
_SHOWN: Final = 40
# Characters that no id may have; each kind of id has its own length limit as well.
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]")


def name_error(text: str, form: str) -> str:
    """
    The error message for an invalid name.

    Args:
        text: a name that does not have the form.
        form: of a name, such as "namespaces/{namespace}/models/{model}".

    Returns:
        The expected form, and the invalid characters with the part that has them.
    """
    parts, wanted = text.split("/"), form.split("/")
    said = f"must be {form}"
    if len(parts) != len(wanted):
        return said
    for part, name in zip(parts, wanted, strict=True):
        if not name.startswith("{") and part != name:
            return said
    wrong = [(part, name.strip("{}")) for part, name in zip(parts, wanted, strict=True) if _OTHER.search(part)]
    if not wrong:
        return said
    part, name = wrong[0]
    marks = ", ".join(sorted({ascii(mark) for mark in _OTHER.findall(part)})[:8])
    shown = ascii(part if len(part) <= _SHOWN else f"{part[:_SHOWN]}...")
    return f"{said}, and the {name} {shown} has {marks}: only letters, digits and . _ - may be in it"
