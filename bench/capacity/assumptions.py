"""
Reads the assumptions and says what is wrong with them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).with_name("assumptions.toml")
KINDS = ("measured", "derived", "setting", "assumed")
#: What a value of each unit may be: at least, at most.
UNITS: Mapping[str, tuple[float, float]] = {
    "ms": (0.0001, 1e6),
    "share": (0.0, 1.0),
    "ratio": (1.0, 100.0),
    "count": (1.0, 1e12),
    "bytes": (1.0, 1e9),
    "MiB": (1.0, 1e6),
    "GiB": (0.1, 1e5),
    "exponent": (0.0, 3.0),
    "utilisation": (0.05, 0.95),
}
_ENDED_BY = ("own", "namespace", "none")
_AT = ("registry", "cdn", "none")
_NUMBERS = ("share", "keys", "answer", "kept", "registry", "postgres")


class AssumptionsError(Exception):
    """
    The file cannot be used; the message names the field and what to do.
    """


@dataclass(frozen=True, slots=True)
class Assumption:
    """
    One figure.

    Args:
        name: "cache.near".
        kind: one of `KINDS`.
        why: this value, where nobody has measured it.
    """

    name: str
    value: float
    unit: str
    kind: str
    source: str
    why: str


@dataclass(frozen=True, slots=True)
class Call:
    """
    A call that reads; the units are in the file under [call_units].
    """

    name: str
    share: float
    keys: float
    answer: float
    kept: float
    ended_by: str
    registry: float
    postgres: float
    grows: bool
    at: str
    source: str


@dataclass(frozen=True, slots=True)
class Assumptions:
    """
    All of them.
    """

    figures: Mapping[str, Assumption]
    calls: tuple[Call, ...]
    call_units: Mapping[str, str]

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value

    def but(self, values: Mapping[str, float]) -> Assumptions:
        """
        The same with other values by name.
        """
        changed = {name: replace(self.figures[name], value=value) for name, value in values.items()}
        return replace(self, figures={**self.figures, **changed})


def load(path: Path = DEFAULT) -> Assumptions:
    """
    Read a file of assumptions.

    Args:
        path: a changed copy of assumptions.toml: the same names and units.

    Raises:
        AssumptionsError: it cannot be read, or something in it cannot be.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AssumptionsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AssumptionsError(f"{path}: is not TOML: {error}") from None
    assumptions = _parsed(found, path)
    if path != DEFAULT:
        _compare(assumptions, load(), path)
    return assumptions


def _parsed(found: Mapping[str, Any], path: Path) -> Assumptions:
    units, calls, figures = {}, [], {}
    for group, tables in found.items():
        if not isinstance(tables, dict):
            raise AssumptionsError(f"{path}: {group} belongs into a table, as [gateway.call] value = …")
        if group == "call_units":
            units = tables
            continue
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise AssumptionsError(f"{path}: {group}.{name} is a table with value, unit, kind and source")
            if group == "calls":
                calls.append(_call(name, table, path))
            else:
                figures[f"{group}.{name}"] = _figure(f"{group}.{name}", table, path)
    if calls and sum(call.share for call in calls) <= 0:
        raise AssumptionsError(f"{path}: calls: the shares add up to nothing; give one call a share above 0")
    return Assumptions(figures, tuple(calls), units)


def _figure(name: str, table: Mapping[str, Any], path: Path) -> Assumption:
    _said(name, table, ("unit", "kind", "source"), path)
    value, unit = _number(f"{name}.value", table.get("value"), path), table["unit"]
    if unit not in UNITS:
        raise AssumptionsError(f"{path}: {name}.unit is {unit!r}; use one of {', '.join(UNITS)}")
    least, most = UNITS[unit]
    if not least <= value <= most:
        raise AssumptionsError(f"{path}: {name}.value is {value:g}; a {unit} is between {least:g} and {most:g}")
    return Assumption(name, value, unit, table["kind"], table["source"], table.get("why", ""))


def _call(name: str, table: Mapping[str, Any], path: Path) -> Call:
    name = f"calls.{name}"
    _said(name, table, ("kind", "source"), path)
    numbers = {field: _number(f"{name}.{field}", table.get(field), path) for field in _NUMBERS}
    for field, value in numbers.items():
        if value < 0:
            raise AssumptionsError(f"{path}: {name}.{field} is {value:g}; it is 0 or more")
    for field, allowed in (("ended_by", _ENDED_BY), ("at", _AT)):
        if table.get(field) not in allowed:
            raise AssumptionsError(f"{path}: {name}.{field} is {table.get(field)!r}; use one of {', '.join(allowed)}")
    if not isinstance(table.get("grows"), bool):
        raise AssumptionsError(f"{path}: {name}.grows is {table.get('grows')!r}; use true or false")
    return Call(
        name, **numbers, ended_by=table["ended_by"], grows=table["grows"], at=table["at"], source=table["source"]
    )


def _said(name: str, table: Mapping[str, Any], fields: tuple[str, ...], path: Path) -> None:
    for field in fields:
        if not isinstance(table.get(field), str) or not table[field].strip():
            raise AssumptionsError(f"{path}: {name}.{field} is missing; say it in quotes")
    if table["kind"] not in KINDS:
        raise AssumptionsError(f"{path}: {name}.kind is {table['kind']!r}; use one of {', '.join(KINDS)}")
    if table["kind"] == "assumed" and not str(table.get("why", "")).strip():
        raise AssumptionsError(f"{path}: {name}.why is missing; an assumed figure says why it has this value")


def _number(name: str, value: object, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AssumptionsError(f"{path}: {name} is {value!r}; it is a number")
    if value != value or value in (float("inf"), float("-inf")):
        raise AssumptionsError(f"{path}: {name} is {value}; it is a finite number")
    return float(value)


def _compare(given: Assumptions, own: Assumptions, path: Path) -> None:
    """
    A misspelt name would otherwise leave the figure as it was without a word.
    """
    for name in own.figures.keys() - given.figures.keys():
        raise AssumptionsError(f"{path}: {name} is missing; copy it from {DEFAULT.name}")
    for name in given.figures.keys() - own.figures.keys():
        raise AssumptionsError(f"{path}: {name} is no assumption; the names are those of {DEFAULT.name}")
    for name, figure in own.figures.items():
        if given.figures[name].unit != figure.unit:
            raise AssumptionsError(f"{path}: {name}.unit is {given.figures[name].unit!r}; it is {figure.unit!r}")
    if not given.calls:
        raise AssumptionsError(f"{path}: calls is missing; copy it from {DEFAULT.name}")
