"""
Labels on the command line: set and removed one at a time, so that others keep theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, MutableMapping

from modelyard.cli.parsing import pair


def label_change(text: str) -> tuple[str, str]:
    """
    ``key=value`` sets a label, ``key-`` removes it: the value is empty then. For arguments.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if "=" not in text and len(text) > 1 and text.endswith("-"):
        return text[:-1], ""
    try:
        return pair(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither KEY=VALUE nor KEY-") from None


def change_labels(labels: MutableMapping[str, str], changes: Iterable[tuple[str, str]]) -> list[str]:
    """
    Fill the labels of a resource that goes with an update.

    Args:
        changes: keys and values; an empty value removes the label.

    Returns:
        The paths for the update's mask.
    """
    last = dict(changes)
    labels.update({key: value for key, value in last.items() if value})
    return [f"labels.{key}" for key in last]
