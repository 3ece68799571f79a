"""
Labels on the command line: set and removed individually, without replacing the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, MutableMapping

from modelyard.cli.parsing import pair


def label_change(text: str) -> tuple[str, str]:
    """
    Parse ``key=value``, which sets a label, or ``key-``, which removes it: the value is empty then.

    Raises:
        argparse.ArgumentTypeError: *text* is neither.
    """
    if "=" not in text and len(text) > 1 and text.endswith("-"):
        return text[:-1], ""
    try:
        return pair(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither KEY=VALUE nor KEY-") from None


def change_labels(labels: MutableMapping[str, str], changes: Iterable[tuple[str, str]]) -> list[str]:
    """
    Fill the labels of the resource in an update request.

    Args:
        changes: keys and values; an empty value removes the label.

    Returns:
        The paths for the update's mask.
    """
    last = dict(changes)
    labels.update({key: value for key, value in last.items() if value})
    return [f"labels.{key}" for key in last]
