"""
The entrypoint of the image: `python -m deploy.entrypoint SERVICE [OPTIONS]`.

SERVICE is one of

    registry, cache, cdn, doors     with the options of `python -m services.registry`
    migrate registry, migrate cdn   with those of `python -m services.registry.migrate`
    gateway                         with those of `python -m gateway.render`, without --descriptors and --site,
                                    and --drain-seconds of `python -m gateway`

It replaces itself with the program (exec), which is PID 1 of the container and receives its signals. The rendered
configuration of the gateway is written to MODELYARD_RUN, the only folder that must be writable (default: modelyard in
the temporary folder).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SERVICES = ("registry", "cache", "cdn", "doors")
MIGRATED = ("registry", "cdn")


def main(argv: Sequence[str]) -> int:
    """
    Replace this process with the program that *argv* names.

    Returns:
        2 for a wrong command line; of the gateway, what its rendering ended with. Otherwise it does not return.
    """
    name, *options = argv or [""]
    if name in SERVICES:
        _become(f"services.{name}", *options)
    if name == "migrate" and options and options[0] in MIGRATED:
        _become(f"services.{options[0]}.migrate", *options[1:])
    if name == "gateway":
        return _gateway(options)
    what = "migrate takes registry or cdn" if name == "migrate" else f"what should run? Not {name!r}"
    sys.stderr.write(f"modelyard: {what}\n\n{__doc__}")
    return 2


def _gateway(options: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="modelyard gateway", add_help=False, allow_abbrev=False)
    parser.add_argument("--drain-seconds", default="30")
    own, rest = parser.parse_known_args(options)
    if {"-h", "--help"} & set(rest):
        _become("gateway.render", "--help")
    # A pod's own file system has this; no port has it.
    folder = Path(os.environ.get("MODELYARD_RUN") or Path(tempfile.gettempdir(), "modelyard"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config, admin = folder / "gateway.yaml", str(folder / "admin.sock")
        with config.open("wb") as output:
            files = ["--descriptors", str(folder / "contracts.binpb"), "--site", str(folder / "site")]
            command = [sys.executable, "-m", "gateway.render", *files, "--admin", admin, *rest]
            done = subprocess.run(command, stdout=output, check=False)
    except OSError as error:
        sys.stderr.write(f"modelyard gateway: {folder} cannot be written ({error.strerror}): set MODELYARD_RUN\n")
        return 1
    if done.returncode:
        return done.returncode
    _become("gateway", "--config", str(config), "--admin", admin, "--drain-seconds", own.drain_seconds)
    return 0


def _become(module: str, *options: str) -> None:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *options])  # noqa: S606 - a program of ours


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
