"""
Virtual environments for tools that cannot share the dependencies of the project, inside of its own environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_with(name: str) -> Path:
    """
    The Python of the environment that holds `requirements/NAME.txt`. It is created first, or again when the file has
    changed; processes that need it at the same time wait for each other.

    Args:
        name: of the hash-locked set: stubs, docs.

    Raises:
        subprocess.CalledProcessError: pip could not install the set, and has said why.
    """
    lock, home = ROOT / "requirements" / f"{name}.txt", Path(sys.prefix) / name
    stamp, python = home / "lock.sha256", home / "bin" / "python"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    with home.with_suffix(".lock").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True)
            stamp.write_text(wanted)
    return python
