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
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


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
    python = home / "bin" / "python"

    def create() -> None:
        venv.create(home, with_pip=True)
        subprocess.run([str(python), *_INSTALL, "--require-hashes", "-r", str(lock)], check=True)

    _once(home, lock.read_bytes(), create)
    return python


def packages(name: str, requirements: Sequence[str]) -> Path:
    """
    A folder with installed packages, for the `sys.path` of another environment of the same Python. It is created first,
    or again when the requirements have changed.

    Args:
        name: of the folder.
        requirements: as pip takes them, such as grpcio==1.80.0; their dependencies are installed as well.

    Raises:
        subprocess.CalledProcessError: pip could not install them, and has said why.
    """
    home = Path(sys.prefix) / name
    # Bytecode is made of what is imported: it takes longer than the installation.
    install = [sys.executable, *_INSTALL, "--no-compile", "--target", str(home), *requirements]
    _once(home, "\n".join(requirements).encode(), lambda: subprocess.run(install, check=True))
    return home


def _once(home: Path, content: bytes, create: Callable[[], object]) -> None:
    stamp, wanted = home / "lock.sha256", hashlib.sha256(content).hexdigest()
    with home.with_suffix(".lock").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            create()
            stamp.write_text(wanted)
