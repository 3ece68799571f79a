"""
`make bench PROFILE=smoke`: see docs/bench.md.

Settings: PROFILE, SCENARIO (names with commas; all by default), SCALE (of the time), MODELS, MODE (closed or open),
TARGET (host:port of a deployed gateway), CA_FILE and TOKEN_FILE for it, KILL (a service to kill in the middle), OUT.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench import tools
from bench.form import OUT
from bench.run.plan import PlanError, profile, scenarios
from bench.run.runner import Run, Settings
from bench.run.suite import deployed, embedded, own_settings


def main() -> int:
    """
    Run, report, judge.

    Returns:
        The exit code: 0 when every line of the SLA holds, 1 when one is missed, 2 for settings that cannot be.
    """
    environ = os.environ
    try:
        plan = profile(environ.get("PROFILE") or "smoke")
        wanted = scenarios(environ.get("SCENARIO", ""))
        settings = Settings(
            scale=float(environ.get("SCALE") or 1),
            open_loop={"closed": False, "open": True}[environ.get("MODE") or "closed"],
            kill=environ.get("KILL", ""),
            out=Path(environ.get("OUT") or OUT / time.strftime("%Y%m%d-%H%M%S")),
            scenario=environ.get("SCENARIO", ""),
        )
        models = int(environ.get("MODELS") or plan.models)
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyError, ValueError):
        print("SCALE and MODELS are numbers, and MODE is closed or open", file=sys.stderr)
        return 2
    tools.ghz()
    target = environ.get("TARGET", "")
    files = [Path(environ[name]) if environ.get(name) else None for name in ("CA_FILE", "TOKEN_FILE")]
    say = lambda text: print(text, flush=True)  # noqa: E731
    with deployed(target, *files) if target else embedded(models, say, own_settings()) as measured:
        return Run(plan, wanted, measured, settings).go()


if __name__ == "__main__":
    sys.exit(main())
