"""
Provide ghz, the load generator: from PATH, else built once into `.modelyard/tools`.
"""

from __future__ import annotations

from pathlib import Path

from embedded.golang import GoProgram

GHZ = GoProgram("ghz", "v0.121.0", "github.com/bojand/ghz/cmd/ghz")
VERSION = GHZ.version


def ghz() -> Path:
    """
    Where ghz is.

    Raises:
        SystemExit: it is nowhere and cannot be built; the message says what to do.
    """
    try:
        return GHZ.provide()
    except OSError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    print(f"ghz: {ghz().name} {VERSION} is ready")
