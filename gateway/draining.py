"""
The file that notifies Envoy of a drain: `envoy.resource_monitors.injected_resource` in envoy.yaml, whose pressure
shortens the idle timeout of clients' connections.
"""

from __future__ import annotations

from pathlib import Path


def file(admin: Path) -> Path:
    """
    Where it is.

    Args:
        admin: the admin socket, beside which it is.
    """
    return admin.with_suffix(".draining")


def prepare(admin: Path) -> None:
    """
    Write it before Envoy starts: no drain.
    """
    file(admin).write_text("0")


def begin(admin: Path) -> None:
    """
    Close idle connections, each after a GOAWAY.
    """
    fresh = file(admin).with_suffix(".new")
    fresh.write_text("1")
    fresh.replace(file(admin))  # Envoy notices a file that is moved there, and none that is written to
