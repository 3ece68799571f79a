"""
Settings are read once, in `__main__`, from the environment and secret files, and passed down as a frozen value.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from services.chassis.settings.kinds import Kind
from services.chassis.settings.secrets import Secret, read_secret

T = TypeVar("T")
C = TypeVar("C")

_PREFIX = "MODELYARD_"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Variable:
    """
    The description of one setting.

    Args:
        name: of the environment variable.
        kind: how its text becomes a value.
        help: what it is for.
        secret: the variable names a file; the value is what the file holds.
    """

    name: str
    kind: Kind[Any]
    help: str
    secret: bool = False


def setting(name: str, kind: Kind[T], *, help: str, default: Any = MISSING) -> T:  # noqa: A002 - as in argparse
    """
    A field of a settings class that is read from the environment variable *name*.

    Args:
        name: MODELYARD_….
        kind: one of `services.chassis.settings.kinds`.
        help: what it is for, in one line.
        default: the value when the variable is unset or empty; without one it has to be set.
    """
    return cast(T, field(default=default, metadata={"variable": Variable(name, kind, help)}))


def secret(name: str, *, help: str, default: Any = MISSING) -> Any:  # noqa: A002 - as in argparse
    """
    A field (`Secret`, or `Secret | None` with a default of None) read from the file that *name* names.

    Args:
        name: MODELYARD_…_FILE.
        help: what it is for, in one line.
        default: None if the service can do without.
    """
    kind = Kind("the path of a file that only this user can read", lambda path: read_secret(Path(path)))
    return field(default=default, metadata={"variable": Variable(name, kind, help, secret=True)})


class SettingsError(Exception):
    """
    Everything that is wrong with the settings, one line each.

    Args:
        problems: settings that are missing or wrong.
        hints: variables that were probably meant to be one of them.
    """

    def __init__(self, problems: Sequence[str], hints: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        self.hints = tuple(hints)
        count = "A setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        super().__init__("\n  ".join([f"{count} wrong:", *problems, *hints]))


def load(cls: type[C], environ: Mapping[str, str] = os.environ) -> C:
    """
    Read the settings of *cls* from the environment and from secret files.

    Args:
        cls: a frozen dataclass whose fields were made by `setting` and `secret`.
        environ: variables by name. Empty counts as unset: that is what compose files and charts leave behind.

    Raises:
        SettingsError: a setting is missing or wrong; it lists all of them, never with the value of a secret.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, variable, default in _variables(cls):
        raw = environ.get(variable.name, "").strip()
        if raw:
            try:
                values[name] = variable.kind.parse(raw)
            except ValueError as error:
                problems.append(_wrong(variable, raw, str(error)))
        elif default is MISSING:
            problems.append(f"{variable.name} is not set: {variable.help}; expected {variable.kind.expects}")
        else:
            values[name] = default
    hints = _hints({variable.name for _, variable, _ in _variables(cls)}, environ)
    if problems:
        raise SettingsError(problems, hints)
    for hint in hints:
        _log.warning("%s", hint)
    return cls(**values)


def describe(cls: type[Any]) -> str:
    """
    The table of the settings of *cls*, for --help and the documentation.
    """
    rows = [("variable", "default", "expects", "what it is for")]
    for _, variable, default in _variables(cls):
        shown = "required" if default is MISSING else _plain(default)
        rows.append((variable.name, shown, variable.kind.expects, variable.help))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _variables(cls: type[Any]) -> Iterator[tuple[str, Variable, Any]]:
    for each in fields(cls):
        yield each.name, each.metadata["variable"], each.default


def _wrong(variable: Variable, raw: str, detail: str) -> str:
    # A path may be printed, what the file holds may not: a ValueError of read_secret never quotes it.
    line = f'{variable.name}="{variable.kind.show(raw)}"'
    if variable.secret:
        return f"{line}: {detail}"
    return f"{line}: expected {variable.kind.expects}" + (f" ({detail})" if detail else "")


def _hints(known: set[str], environ: Mapping[str, str]) -> list[str]:
    """
    Variables that are set, that nobody reads, and that look as if they were meant to be one of *known*.
    """
    hints = []
    for name in sorted(set(environ) - known):
        if not name.startswith(_PREFIX):
            continue
        if f"{name}_FILE" in known:
            hints.append(f"{name} is not read, secrets come from files: unset it and set {name}_FILE")
            continue
        suffixes = [each.removeprefix(_PREFIX) for each in known]
        close = difflib.get_close_matches(name.removeprefix(_PREFIX), suffixes, n=1, cutoff=0.8)
        if close:
            hints.append(f"{name} is not a setting of this service: did you mean {_PREFIX}{close[0]}?")
    return hints


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["Secret", "SettingsError", "Variable", "describe", "load", "secret", "setting"]
