"""
docs/operations/ttl.md: a longer time-to-live shows in the hit rate.
"""

from __future__ import annotations

import pytest

import modelyard
from bench.ttl import Load, measure, populate
from embedded.scratch import scratch
from embedded.stack import Stack, StackSettings


@pytest.mark.own_suite
def test_a_longer_time_to_live_shows() -> None:
    """
    Of few keys that are read again and again, nothing but the first reads are misses while everything is kept, and more
    are as soon as it is not.
    """
    load = Load("searches", keys=5, rate=20, seconds=2)
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0)) as stack:
        with modelyard.connect(stack.gateway) as yard:
            populate(yard, load.keys)
        short, long = (measure(stack, load, ttl) for ttl in (0.2, 60))
        stack.kill("s3")
    assert long.miss == load.keys
    assert short.miss > load.keys
    assert short.hits < long.hits
