"""
The settings of the services, from their declarations (`setting()` and `secret()` in `services/*/settings.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from docs.reference import markdown as md
from docs.reference import sources
from services.chassis.settings.loading import Variable

_ABOUT = """\
Environment variables that the services read at start, generated from their declarations. A variable that is empty
counts as unset. Secrets are read from files: the variable holds the path. A service that finds a missing or invalid
setting lists all of them and exits; `python -m services.registry --help` prints the same table for the registry.

The gateway and the commands that migrate databases are configured by options: see [programs](programs.md). The
variables that the command line reads are in [command line](../cli.md)."""

_UNITS = {"BYTES": "bytes", "SECONDS": "seconds", "PERCENT": "percent", "MONTHS": "months", "DAYS": "days"}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting of a service.

    Args:
        package: the package that declares it: services.cdn.
        variable: its declaration.
        default: as text; None when it is required.
    """

    package: str
    variable: Variable
    default: str | None

    @property
    def unit(self) -> str:
        """
        The unit that its name ends in, if any; "bytes per second" for a rate.
        """
        name = self.variable.name
        if name.endswith("BYTES_PER_SECOND"):
            return "bytes per second"
        return next((unit for word, unit in _UNITS.items() if f"_{word}" in name), "")


def all_settings() -> list[Setting]:
    """
    Every setting that any class of any service declares, once, under the package that declares it.
    """
    found: dict[str, Setting] = {}
    for each in _declared():
        # A class inherits the settings of its base: the base is the one that declares them.
        known = found.get(each.variable.name)
        if known is None or tuple(sources.TITLES).index(each.package) < tuple(sources.TITLES).index(known.package):
            found[each.variable.name] = each
    return sorted(found.values(), key=lambda each: (tuple(sources.TITLES).index(each.package), each.variable.name))


def _declared() -> Iterator[Setting]:
    for cls in sources.classes("services", "Settings"):
        if not is_dataclass(cls):
            continue
        package = ".".join(cls.__module__.split(".")[:2])
        for field in fields(cls):
            variable = field.metadata.get("variable")
            if isinstance(variable, Variable):
                yield Setting(package, variable, None if field.default is MISSING else _text(field.default))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def page() -> str:
    """
    The page.
    """
    found = all_settings()
    sections = []
    for package in tuple(sources.TITLES):
        rows = [_row(each) for each in found if each.package == package]
        if rows:
            sections.append(f"## {sources.TITLES[package]}")
            sections.append(md.table(("setting", "default", "unit", "type", "description"), rows))
    return md.page("Settings", _ABOUT, *sections)


def _row(setting: Setting) -> tuple[str, ...]:
    variable, default = setting.variable, setting.default
    shown = "**required**" if default is None else md.code(default) or "unset"
    return (
        md.code(variable.name),
        shown,
        setting.unit,
        md.prose(variable.kind.expects),
        md.sentence(md.prose(variable.help)),
    )
