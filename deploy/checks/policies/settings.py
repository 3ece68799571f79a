"""
What the pods are told is what the programs understand.
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
from services.ledger.settings import MigrationSettings
from services.registry.settings import RegistrySettings

PROGRAMS: dict[str, type[Any]] = {
    "registry": RegistrySettings,
    "cache": CacheSettings,
    "cdn": CdnSettings,
    "migrate": MigrationSettings,
}


def settings(suite: Suite) -> Iterator[str]:
    """
    Each program reads its settings without an error, and none is misspelt.
    """
    for pod in suite.pods:
        for container in pod.containers:
            program = (container.get("args") or [""])[0]
            if program in PROGRAMS:
                lines = wrong(program, suite.environment(container))
                yield from (f"{pod}, {container['name']}: {line}" for line in lines)


def memory(suite: Suite) -> Iterator[str]:
    """
    What a program may keep in memory by its settings is less than its pod may have.
    """
    for pod in suite.pods:
        for container in pod.main if pod.kind == "Deployment" else []:
            values = suite.environment(container)
            kept = [int(values[name]) for name in ("MODELYARD_CACHE_NEAR_BYTES",) if name in values]
            kept += [int(one[7:]) << 20 for one in container["args"] if one.startswith("--heap=")]
            limit = _octets(container["resources"]["limits"]["memory"])
            if any(each > 0.8 * limit for each in kept):
                yield f"{pod}: it may keep {max(kept) >> 20} MiB, of {limit >> 20} MiB in all"


def wrong(program: str, values: Mapping[str, str]) -> Iterator[str]:
    """
    What a program would say of its environment.

    Args:
        program: one of PROGRAMS.
        values: by name; files need not be there.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The files are in the cluster's Secrets: any content will do here.
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
            yield f"{name} is no setting"


def _octets(quantity: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(float(quantity[:-2]) * units[quantity[-2:]]) if quantity[-2:] in units else int(quantity)
