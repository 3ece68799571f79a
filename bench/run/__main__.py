"""
`make bench PROFILE=smoke`: see docs/bench.md.

Settings: PROFILE, SCENARIO (names with commas; all by default), SCALE (of the time), MODELS, MODE (closed or open),
TARGET (host:port of a deployed gateway), CA_FILE and TOKEN_FILE for it, KILL (a service to kill in the middle), OUT,
BUSY (1: run on a machine that others use, without a verdict).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench import tools
from bench.foreign import Watch
from bench.form import OUT
from bench.run.plan import PlanError, profile, scenarios
from bench.run.runner import Run, Settings
from bench.run.suite import deployed, embedded, own_settings


def main() -> int:
    """
    Run, report, judge.

    Returns:
        The exit code: 0 when every objective of the SLA holds, 1 when one is missed, 2 for settings that cannot be, 3
        when there is no verdict: others took the processor, or what was asked for was not measured.
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
    if not (quiet_before() or environ.get("BUSY")):
        print("End what is running, or set BUSY=1 for a run without a verdict", file=sys.stderr)
        return 3
    tools.ghz()
    target = environ.get("TARGET", "")
    files = [Path(environ[name]) if environ.get(name) else None for name in ("CA_FILE", "TOKEN_FILE")]
    say = lambda text: print(text, flush=True)  # noqa: E731
    with deployed(target, *files) if target else embedded(models, say, own_settings()) as measured:
        return Run(plan, wanted, measured, settings).go()


def quiet_before() -> bool:
    """
    Look at the machine for two seconds, and say so when somebody uses it.
    """
    watch = Watch()
    time.sleep(2)
    foreign = watch.so_far()
    if not foreign.quiet:
        print(foreign, file=sys.stderr)
    return foreign.quiet


if __name__ == "__main__":
    sys.exit(main())
