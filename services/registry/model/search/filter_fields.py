"""
The fields of the filter language, and the values that they are compared with.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from unicodedata import normalize

from services.chassis.checks import FREE_KEY, MOST_INT64, SLUG
from services.registry.model.evaluation_metrics import MEASURES, measure_id
from services.registry.model.search.filters import (
    TEXTS,
    VERSION_TEXTS,
    CreateTime,
    Description,
    Field,
    Label,
    LabelKeys,
    LatestVersion,
    Op,
    ParameterCount,
    Score,
    Text,
    UpdateTime,
    Value,
    VersionNumber,
)

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_KNOWN = (
    f"{', '.join(TEXTS)}, description, parameter_count, latest_version, create_time, update_time, labels.KEY or "
    "evaluations.DATASET.METRIC"
)
_FIELDS: dict[str, Field] = {
    **{name: Text(name) for name in TEXTS},
    "parameter_count": ParameterCount(),
    "parameters": ParameterCount(),
    "latest_version": LatestVersion(),
    "create_time": CreateTime(),
    "update_time": UpdateTime(),
    "description": Description(),
    "labels": LabelKeys(),
}
_VERSION_FIELDS: dict[str, Field] = {
    **{name: Text(name) for name in VERSION_TEXTS},
    "number": VersionNumber(),
    "create_time": CreateTime(),
    "update_time": UpdateTime(),
    "labels": LabelKeys(),
}
_VERSION_KNOWN = f"{', '.join(VERSION_TEXTS)}, number, create_time, update_time or labels.KEY"
_STATES = ("PENDING", "READY", "FAILED")
#: A text in double quotes; what follows a backslash stands for itself.
QUOTED = r'"(?:[^"\\]|\\.)*"'
_SEGMENT = re.compile(rf'({QUOTED})|([^."]+)', re.DOTALL)
# What needs no quotes in the key of a label.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


class FilterError(Exception):
    """
    A syntax or type error in a filter or an order, with its position.
    """

    def __init__(self, position: int, message: str) -> None:
        super().__init__(f"at {position}: {message}")


def field_of(name: str, position: int) -> Field:
    """
    The field of models that *name* means; ids of data sets and metrics, and keys of labels may be quoted.

    Raises:
        FilterError: models have no such field.
    """
    if name in _FIELDS:
        return _FIELDS[name]
    parts = _segments(name)
    if parts[0] == "labels":
        return _label(name, parts, position)
    if parts[0] == "evaluations" and len(parts) == 3:
        dataset, metric = (measure_id(part) for part in parts[1:])
        if dataset is None or metric is None:
            raise FilterError(position, f'"{name[:80]}" has no id of a data set or a metric: {MEASURES}')
        return Score(dataset, metric)
    raise FilterError(position, f'"{name[:80]}" is not a field: expected {_KNOWN}')


def version_field_of(name: str, position: int) -> Field:
    """
    The field of versions that *name* means.

    Raises:
        FilterError: versions have no such field.
    """
    if name in _VERSION_FIELDS:
        return _VERSION_FIELDS[name]
    parts = _segments(name)
    if parts[0] == "labels":
        return _label(name, parts, position)
    raise FilterError(position, f'"{name[:80]}" is not a field: expected {_VERSION_KNOWN}')


def _label(name: str, parts: list[str], position: int) -> Label:
    if not FREE_KEY.fullmatch(key := ".".join(parts[1:])):
        raise FilterError(position, f'"{name[:80]}" has no key of a label: 1 to 250 characters, no control characters')
    return Label(key)


def unquoted(text: str) -> str:
    """
    The text between the quotes.
    """
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def _segments(name: str) -> list[str]:
    """
    What is between the dots of a field's name: as it is, or in quotes; a single empty text when it is no such name.
    """
    found, position = [], 0
    while match := _SEGMENT.match(name, position):
        found.append(unquoted(match[1]) if match[1] else match[2])
        if found[0] == "evaluations" and len(found) > 1:
            # Ids are kept in NFC.
            found[-1] = normalize("NFC", found[-1])
            if not (SLUG.fullmatch(found[-1]) or match[1]):
                return [""]
        if found[0] == "labels" and len(found) > 1 and not (_PLAIN.fullmatch(found[-1]) or match[1]):
            return [""]
        position = match.end() + 1
        if position > len(name):
            return found
        if name[position - 1] != "." or not found[-1]:
            return [""]
    return [""]


def value_of(field: Field, op: Op, text: str, position: int) -> Value:
    """
    What *text* means for *field*.

    Raises:
        FilterError: it means nothing there, or *op* does not.
    """
    match field:
        case ParameterCount():
            _refuse_has(op, position)
            return _whole(text, position)
        case Score():
            _refuse_has(op, position)
            return _number(text, position)
        case LatestVersion() | VersionNumber():
            _refuse_has(op, position)
            return _whole(text, position)
        case Text("state") if text not in _STATES:
            raise FilterError(position, f'"{text[:40]}" is not a state: expected {", ".join(_STATES)}')
        case CreateTime() | UpdateTime():
            _refuse_has(op, position)
            return _moment(text, position)
        case Description():
            if op is not Op.HAS:
                raise FilterError(position, "description supports only the operator : with words, or *")
            return normalize("NFC", text)
        case LabelKeys():
            return text
        case _:
            return normalize("NFC", text)


def pattern_of(field: Field, text: str, position: int) -> Value:
    """
    The pattern of `like` and `ilike`.

    Raises:
        FilterError: the field takes none, or *text* is none.
    """
    if not isinstance(field, Text | Label) or field == Text("state"):
        raise FilterError(position, "like and ilike compare texts and labels.KEY only")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise FilterError(position, "a pattern must not end in a single backslash")
    return normalize("NFC", text)


def _refuse_has(op: Op, position: int) -> None:
    if op is Op.HAS:
        raise FilterError(position, "this field supports only * after :; compare it with = != < <= > >=")


def _number(text: str, position: int) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise FilterError(position, f'expected a number, found "{text[:40]}"')
    return number


def _whole(text: str, position: int) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        number = int(text)
    else:
        real = _number(text, position)  # 1e8 is a handy way to write a whole number
        if not real.is_integer():
            raise FilterError(position, f'expected a whole number, found "{text[:40]}"')
        number = int(real)
    if not -MOST_INT64 <= number <= MOST_INT64:
        raise FilterError(position, "the number does not fit an int64")
    return number


def _moment(text: str, position: int) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise FilterError(position, 'expected a time such as "2026-01-31T12:00:00Z"') from None
