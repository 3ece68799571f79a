"""
docs/operations/ttl.md: a longer time-to-live shows in the hit rate.
"""

from __future__ import annotations

from dataclasses import replace

import modelyard
from bench.ttl import Load, measure, populate
from embedded.stack import Stack


def test_a_longer_time_to_live_shows(stack: Stack, yard: modelyard.Client) -> None:
    """
    Of few keys that are read again and again, nothing but the first reads are misses while everything is kept, and more
    are as soon as it is not.
    """
    load = Load("searches", keys=5, rate=50, seconds=3)
    populate(yard, load.keys)
    try:
        short, long = (measure(stack, load, ttl) for ttl in (0.2, 60))
    finally:
        stack.kill("cache")
        stack.run(replace(stack.services["cache"].part(), needs=()))
    assert long.miss == load.keys
    assert short.miss > load.keys
    assert short.hits < long.hits
