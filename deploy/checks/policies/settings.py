"""
The settings of pods are valid for their programs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from deploy.checks.suite import Suite
from services.cache.settings import CacheSettings
from services.cdn.settings import CdnSettings
from services.chassis.settings import SettingsError, load
from services.doors.settings import DoorsSettings
from services.ledger.settings import MigrationSettings
from services.registry.settings import RegistrySettings

PROGRAMS: dict[str, type[Any]] = {
    "registry": RegistrySettings,
    "cache": CacheSettings,
    "cdn": CdnSettings,
    "doors": DoorsSettings,
    "migrate": MigrationSettings,
}


def settings(suite: Suite) -> Iterator[str]:
    """
    Each program accepts its settings, and none is unknown.
    """
    for pod in suite.pods:
        for container in pod.containers:
            program = (container.get("args") or [""])[0]
            if program in PROGRAMS:
                lines = wrong(program, suite.environment(container))
                yield from (f"{pod}, {container['name']}: {line}" for line in lines)


def memory(suite: Suite) -> Iterator[str]:
    """
    The memory that settings allow a program fits its memory limit.
    """
    for pod in suite.pods:
        for container in pod.main if pod.kind == "Deployment" else []:
            values = suite.environment(container)
            kept = [int(values[name]) for name in ("MODELYARD_CACHE_NEAR_BYTES",) if name in values]
            kept += [int(one[7:]) << 20 for one in container["args"] if one.startswith("--heap=")]
            limit = _octets(container["resources"]["limits"]["memory"])
            if any(each > 0.8 * limit for each in kept):
                yield f"{pod}: it may cache {max(kept) >> 20} MiB, with a memory limit of {limit >> 20} MiB"


def wrong(program: str, values: Mapping[str, str]) -> Iterator[str]:
    """
    A program's errors for its environment.

    Args:
        program: one of PROGRAMS.
        values: by name; files need not be there.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The files come from Secrets: any content is valid here.
        secret = Path(folder) / "secret"
        secret.write_text("{}")
        secret.chmod(0o600)
        files = {name: str(secret) for name in values if name.endswith("_FILE")}
        try:
            load(PROGRAMS[program], {**values, **files})
        except SettingsError as error:
            yield from (*error.problems, *error.hints)
    known = {each.metadata["variable"].name for one in PROGRAMS.values() for each in fields(one)}
    for name in sorted(values):
        if name.startswith("MODELYARD_") and name not in known:
            yield f"{name} is not a setting"


def _octets(quantity: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(float(quantity[:-2]) * units[quantity[-2:]]) if quantity[-2:] in units else int(quantity)
