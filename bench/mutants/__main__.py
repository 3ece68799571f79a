"""
Whether the tests notice when the code is broken: `make mutants`, `make mutants ONLY=valid-ignores-tags,an-alias-*`.

In copies of the tree each mutant (mutants.toml) is applied by itself, and its tests are run: one of them has to fail.
Before that the same tests pass on a copy as it is. Exits with 1 when a mutant survives, cannot be applied, or its
tests do not even begin; with the names of those, for ONLY.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from bench.mutants.mutants import TREE, Mutant, UnfitError, mutants

# Each starts servers of its own: more would fail for want of time.
_AT_ONCE = 2
_SECONDS = 900
# What pytest says: all passed, and some failed.
_PASSED, _FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Result:
    """
    How a mutant fared.

    Args:
        verdict: caught, SURVIVED, or what went wrong.
        seconds: that its tests took.
        said: the last that pytest said.
    """

    mutant: Mutant
    verdict: str
    seconds: float
    said: str

    @property
    def good(self) -> bool:
        """
        Whether a test has noticed it.
        """
        return self.verdict == "caught"


class Copies(AbstractContextManager["Copies"]):
    """
    Copies of the tree, as git sees it with all that is not committed; removed afterwards.
    """

    def __init__(self, count: int) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="modelyard-mutants-"))
        # PostgreSQL runs as a user of its own.
        self._home.chmod(0o755)
        self.free: SimpleQueue[Path] = SimpleQueue()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=TREE,
            check=True,
            capture_output=True,
            text=True,
        )
        files = [TREE / name for name in listed.stdout.split("\0") if name]
        for number in range(count):
            copy = self._home / str(number)
            for file in files:
                if file.is_file():
                    to = copy / file.relative_to(TREE)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, to)
            self.free.put(copy)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._home, ignore_errors=True)


def _run(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    # Without bytecode: a file that is changed and changed back within a second may keep its size, too.
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"not done after {_SECONDS} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode, "\n".join(lines[-8:])


def _try(copies: Copies, mutant: Mutant) -> Result:
    copy, began = copies.free.get(), time.monotonic()
    file = copy / mutant.file
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(mutant.applied(copy), encoding="utf-8")
        status, said = _run(copy, mutant.tests)
        verdict = {_FAILED: "caught", _PASSED: "SURVIVED"}.get(status, f"no verdict: pytest ended with {status}")
    except UnfitError as error:
        verdict, said = "cannot be applied", str(error)
    finally:
        file.write_text(before, encoding="utf-8")
        copies.free.put(copy)
    result = Result(mutant, verdict, time.monotonic() - began, said)
    print(f"{result.verdict:10s} {mutant.name} ({result.seconds:.0f} s)", flush=True)
    return result


def _check_unbroken(copies: Copies, chosen: Sequence[Mutant]) -> str:
    """
    What the tests say of the tree as it is; empty when they pass.
    """
    copy = copies.free.get()
    try:
        tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        status, said = _run(copy, tests)
    finally:
        copies.free.put(copy)
    return "" if status == _PASSED else said


def _table(results: Sequence[Result]) -> str:
    width = max(len(result.mutant.name) for result in results)
    lines = [f"{'mutant':{width}s}  verdict   s  breaks"]
    lines += [
        f"{result.mutant.name:{width}s}  {result.verdict:8s} {result.seconds:3.0f}  {result.mutant.breaks}"
        for result in results
    ]
    return "\n".join(lines)


def main() -> int:
    """
    Run them.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="names or patterns of mutants, with commas between them")
    try:
        chosen = mutants(parser.parse_args().only)
        for mutant in chosen:
            mutant.check()
    except UnfitError as error:
        print(error)
        return 1
    with Copies(_AT_ONCE) as copies:
        print(f"{len(chosen)} mutants; first their tests on the tree as it is …", flush=True)
        if wrong := _check_unbroken(copies, chosen):
            print(f"the tests do not pass on the tree as it is:\n{wrong}")
            return 1
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            results = list(pool.map(lambda mutant: _try(copies, mutant), chosen))
    print(_table(results))
    bad = [result for result in results if not result.good]
    for result in bad:
        print(f"\n{result.mutant.name}: {result.verdict}\n{result.said}")
    if bad:
        print(f"\nagain: make mutants ONLY={','.join(result.mutant.name for result in bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
