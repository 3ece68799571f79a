"""
The doors' application alone, for servers that are compared: `uvicorn bench.doors_app:app`. The targets of the other
services come from the environment, as those of the doors do.
"""

from __future__ import annotations

import os

from services.doors.app import application
from services.doors.service.doors import Doors
from services.doors.store.registry import Registry
from services.doors.store.suite import Suite


def _targets(name: str) -> list[str]:
    return os.environ[f"MODELYARD_{name}_TARGET"].split(",")


_suite = Suite(_targets("REGISTRY"), _targets("CACHE"), _targets("CDN"))
app = application(Doors(_suite, Registry(_suite), None))
