"""
Names of registered models: MLflow takes any text without a slash or a colon, the registry has ids.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from services.chassis.errors import InvalidArgument

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_NAME: Final = 256
_MOST_SLUG: Final = 100
_DIGITS: Final = 12


def checked_name(name: str) -> str:
    """
    A name that a registered model can have.

    Raises:
        InvalidArgument: it is empty, has a slash, a colon or a control character, or is longer than 256 characters.
    """
    if not name.strip():
        raise InvalidArgument.of("", "Missing value for required parameter 'name'.")
    if "/" in name or ":" in name or any(ord(each) < 32 or ord(each) == 127 for each in name):
        raise InvalidArgument.of(
            "", f"Invalid model name {name[:100]!r}. Names cannot contain '/', ':' or control characters."
        )
    if len(name) > _MOST_NAME:
        raise InvalidArgument.of("", f"Invalid model name. Names have at most {_MOST_NAME} characters.")
    return name


def model_id(name: str) -> str:
    """
    The id of the model with a name: the name itself where it can be an id, else its letters and a hash of it.
    """
    if _ID.fullmatch(name):
        return name
    slug = _OTHER.sub("-", name).strip("-._")[:_MOST_SLUG] or "model"
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"


def name_of(found: str, display_name: str) -> str:
    """
    The name of the model with an id.

    Args:
        found: its id.
        display_name: its display name, which is the name where an id was made of that.
    """
    return display_name if display_name and model_id(display_name) == found else found


def may_be_hashed(found: str) -> bool:
    """
    Whether an id may have been made of a name by `model_id`.
    """
    return re.fullmatch(rf".+-[0-9a-f]{{{_DIGITS}}}", found) is not None
