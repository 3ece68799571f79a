"""
`python -m deploy.checks [FOLDER …]`: validate overlays by the schemas of Kubernetes and by policies.

Without a folder: all of deploy/overlays. Platform teams can run it on their own overlays. The exit code is 1 if there
are problems.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.checks.building import BuildError, build, build_all
from deploy.checks.policies import POLICIES
from deploy.checks.schemas import VERSIONS, invalid
from deploy.checks.suite import Suite


def problems(suite: Suite) -> Iterator[str]:
    """
    All problems of an overlay.
    """
    for version in VERSIONS:
        yield from (f"Kubernetes {version}: {each}" for each in invalid(suite, version))
    for policy in POLICIES:
        yield from (f"{policy.__name__}: {each}" for each in policy(suite))


def main(argv: list[str]) -> int:
    """
    Returns:
        The exit code.
    """
    try:
        suites = [build(Path(each)) for each in argv] or list(build_all().values())
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    found = 0
    for suite in suites:
        lines = list(problems(suite))
        found += len(lines)
        count = f"{len(suite.objects)} objects, {len(VERSIONS)} versions, {len(POLICIES)} policies"
        sys.stdout.write(f"{suite.name}: {count}: {len(lines) or 'no'} problems\n")
        sys.stdout.write("".join(f"  {line}\n" for line in lines))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
