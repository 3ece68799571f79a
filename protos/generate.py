"""
Generate the stubs under `modelyard/` from the contracts in `protos/`.

`python -m protos.generate` writes them; `--check` writes nothing and fails when the committed ones differ;
`--image FILE` writes the descriptor set that buf reads (imports and comments included).

Generated code refuses runtimes that are older than its generator. The generator (requirements/stubs.in) is therefore
older than what the services run on, and has a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.environments import python_with

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
#: The contracts of the last release; what `make test` compares with.
RELEASED = PROTOS / "released.binpb"


def contracts() -> list[str]:
    """
    The contracts, as paths below `protos/`, in order.
    """
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def run_protoc(python: Path, *options: str) -> None:
    """
    Run protoc over all contracts.

    Args:
        python: of the environment whose protoc it is.
        options: its own.

    Raises:
        SystemExit: protoc found a mistake; it has said which.
    """
    (packages,) = python.parent.parent.glob("lib/python3*/site-packages")
    # protoc looks for its plugins on PATH.
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    includes = [f"-I{folder}" for folder in (PROTOS, packages / "grpc_tools" / "_proto", packages)]
    command = [str(python), "-m", "grpc_tools.protoc", *includes, *options, *contracts()]
    if subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode:
        raise SystemExit(1)


def generate(into: Path) -> list[Path]:
    """
    Write the stubs below *into* and return what was written, relative to it.
    """
    run_protoc(
        python_with("stubs"),
        f"--python_out={into}",
        f"--grpc_python_out={into}",
        f"--mypy_out=quiet:{into}",
        f"--mypy_grpc_out=quiet:{into}",
    )
    for folder in {path.parent for path in into.rglob("*_pb2.py")}:
        for parent in (folder, *folder.relative_to(into).parents):
            init = into / parent / "__init__.py"
            if (into / parent) not in (into, into / "modelyard") and not init.exists():
                init.touch()
    return sorted(path.relative_to(into) for path in into.rglob("*") if path.is_file())


def write() -> None:
    """
    Replace the committed stubs by fresh ones.
    """
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        for old in committed():
            old.unlink()
        for path in fresh:
            target = ROOT / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(scratch) / path, target)
    print(f"{len(fresh)} files generated under modelyard/")


def committed() -> list[Path]:
    """
    The generated files as they stand in the checkout.
    """
    return sorted(path for path in (ROOT / "modelyard").rglob("*_pb2*.py*") if path.suffix in (".py", ".pyi"))


def check() -> None:
    """
    Compare the committed stubs with fresh ones.

    Raises:
        SystemExit: they differ; the message names the files and the command that mends it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        fresh = {path for path in generate(Path(scratch)) if "_pb2" in path.name}
        stands = {path.relative_to(ROOT) for path in committed()}
        differs = sorted(fresh ^ stands) + sorted(
            path for path in fresh & stands if not filecmp.cmp(Path(scratch) / path, ROOT / path, shallow=False)
        )
    if differs:
        raise SystemExit("generated stubs differ from protos/ (run `make protos`): " + ", ".join(map(str, differs)))


def main() -> None:
    """
    Read the arguments and do what they say.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the committed stubs are not fresh")
    parser.add_argument("--image", metavar="FILE", help="write the descriptor set to FILE and nothing else")
    parser.add_argument(
        "--release", action="store_true", help="take these contracts for released: nothing may break them"
    )
    arguments = parser.parse_args()
    # Descriptors are compared with those of the last release, well-known types included: no older protoc's.
    here = Path(sys.executable)
    if arguments.image:
        run_protoc(here, "--include_imports", "--include_source_info", f"--descriptor_set_out={arguments.image}")
    elif arguments.release:
        run_protoc(here, "--include_imports", f"--descriptor_set_out={RELEASED}")
    elif arguments.check:
        check()
    else:
        write()


if __name__ == "__main__":
    main()
