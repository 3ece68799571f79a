"""
What is wrong with the name of a resource, for whoever wrote it.
"""

from __future__ import annotations

import re
from typing import Final

# A part that nobody would want to read whole in an error.
_SHOWN: Final = 40
# What the ids of all resources have in common; each has bounds of its own beside.
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]")


def name_error(text: str, form: str) -> str:
    """
    What is wrong with *text*.

    Args:
        text: a name that does not have the form.
        form: of a name, such as "namespaces/{namespace}/models/{model}".

    Returns:
        The form; and the characters that no name may have, in the part that has them.
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
