"""
Under any schedule no answer of the cache is wrong (docs/adr/0041): the real code in virtual time, with everything that
can be late, lost or broken drawn from a seed.

A schedule is one seeded run of a virtual minute; a choice is a point of it at which the dice decide how long something
takes, and so who goes next. MODELYARD_TEST_SCHEDULES is how many schedules there are, MODELYARD_TEST_SEED
where their seeds begin: a random number unless it is set. A failure names the seed of its schedule.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time

import pytest

from services.cache.tests.schedules.schedule import Outcome, Schedule
from services.cache.tests.schedules.virtual import run

SCHEDULES = int(os.environ.get("MODELYARD_TEST_SCHEDULES", "40"))
SEED = int(os.environ.get("MODELYARD_TEST_SEED") or random.SystemRandom().randrange(2**32))
SECONDS = 60.0


@pytest.mark.timeout(300 + 5 * SCHEDULES)
def test_no_schedule_makes_an_answer_wrong(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """
    An answer is what the registry said at the revision that it bears; it is not from before what its caller has seen,
    nor, unless it is marked, staler than the bound. What is wrong with one caller is not told to another.
    """
    outcome, began = Outcome(), time.process_time()
    # Thousands of streams break.
    caplog.set_level(logging.CRITICAL)
    for seed in range(SEED, SEED + SCHEDULES):
        run(Schedule(seed, SECONDS, outcome).play(), seed)
    spent = time.process_time() - began
    with capsys.disabled():
        sys.stdout.write(
            f"\nschedules: {outcome.schedules} from seed {SEED}, {outcome.choices:,} choices, "
            f"{sum(outcome.reads.values()):,} reads {dict(outcome.reads)}, {outcome.writes:,} writes, "
            f"{outcome.counts['waits']:,} joined, {outcome.seconds:,.0f} virtual s in {spent:.1f} s of a processor\n"
        )
    # What was never looked at was not checked.
    for how in ("near", "shared", "miss", "bypass", "stale"):
        assert outcome.reads[how] > 0, how
    assert outcome.counts["waits"] > 0
