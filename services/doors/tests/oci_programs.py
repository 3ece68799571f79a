"""
Clients of OCI registries: `python -m services.doors.tests.oci_programs` builds those that are not on PATH.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from embedded.golang import TOOLS, GoProgram

ORAS: Final = GoProgram("oras", "v1.3.6", "oras.land/oras/cmd/oras")
CRANE: Final = GoProgram("crane", "v0.22.1", "github.com/google/go-containerregistry/cmd/crane")


def found(program: GoProgram) -> Path | None:
    """
    Where a program is, if it is anywhere: nothing is built.
    """
    on_path = shutil.which(program.name)
    built = TOOLS / program.name
    return Path(on_path) if on_path else built if built.exists() else None


if __name__ == "__main__":
    try:
        for each in (ORAS, CRANE):
            sys.stdout.write(f"{each.name}: {each.provide().name} {each.version} is ready\n")
    except OSError as error:
        sys.exit(str(error))
