"""
Tags: the registry searches labels, which are short; a longer value is an annotation, and the label has its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

_MOST_LABEL: Final = 256
#: Where the bytes of a version are that was made from another one without files; no tag.
LOCATION: Final = "modelyard.mlflow.location"


def label_of(value: str) -> str:
    """
    The value of a label that stands for a tag's: equal for equal values only.
    """
    if len(value) <= _MOST_LABEL:
        return value
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"


def stored(tags: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """
    Tags as labels and annotations.
    """
    labels = {key: label_of(value) for key, value in tags.items()}
    return labels, {key: value for key, value in tags.items() if labels[key] != value}


def tags_of(labels: Mapping[str, str], annotations: Mapping[str, str]) -> list[dict[str, str]]:
    """
    Labels and annotations as tags, by key.
    """
    found = {**labels, **annotations}
    found.pop(LOCATION, None)
    return [{"key": key, "value": found[key]} for key in sorted(found)]
