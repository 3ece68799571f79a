"""
Deterministic check of the cache's coherence (docs/adr/0041): the real code in virtual time, with all delays, losses and
faults drawn from a seed.

A schedule is one seeded run of a virtual minute. A choice is a random duration in it, which decides what runs next.
MODELYARD_TEST_SCHEDULES is the number of schedules (`make check-coherence` runs 1,000), MODELYARD_TEST_SEED the seed of
the first one, random by default. A failure names the seed of its schedule.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time

import pytest

from services.cache.tests.schedules.schedule import Outcome, Schedule
from services.cache.tests.schedules.virtual import run

SCHEDULES = int(os.environ.get("MODELYARD_TEST_SCHEDULES", "12"))
SEED = int(os.environ.get("MODELYARD_TEST_SEED") or random.SystemRandom().randrange(2**32))
SECONDS = 60.0


@pytest.mark.timeout(300 + 5 * SCHEDULES)
def test_no_schedule_makes_an_answer_wrong(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """
    An answer equals the registry's at the revision that it carries. It is not older than its caller's minimum, nor,
    unless it is marked stale, older than the staleness bound. An error of one caller is never returned to another.
    """
    outcome, began = Outcome(), time.process_time()
    # Thousands of streams break, each with a warning.
    caplog.set_level(logging.CRITICAL)
    for seed in range(SEED, SEED + SCHEDULES):
        run(Schedule(seed, SECONDS, outcome).play(), seed)
    spent = time.process_time() - began
    with capsys.disabled():
        sys.stdout.write(
            f"\nschedules: {outcome.schedules} from seed {SEED}, {outcome.choices:,} choices, "
            f"{sum(outcome.reads.values()):,} reads {dict(outcome.reads)}, {outcome.writes:,} writes, "
            f"{outcome.counts['waits']:,} joined, {outcome.seconds:,.0f} virtual s in {spent:.1f} CPU s\n"
        )
    # A kind of answer that did not occur was not checked.
    for how in ("near", "shared", "miss", "bypass", "stale"):
        assert outcome.reads[how] > 0, how
    assert outcome.counts["waits"] > 0


def test_a_seed_repeats_its_schedule_in_any_process() -> None:
    """
    The hash of strings differs between processes, and nothing of a schedule depends on it.
    """
    code = (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "from services.cache.tests.schedules.schedule import Outcome, Schedule\n"
        "from services.cache.tests.schedules.virtual import run\n"
        "outcome = Outcome()\n"
        "for seed in range(5):\n"
        "    run(Schedule(seed, 5.0, outcome).play(), seed)\n"
        "print(outcome)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=60)[0] for process in processes)
    assert first == second
    assert "reads=Counter" in first
