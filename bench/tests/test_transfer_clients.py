"""
What the clients of `make bench-assets` did, put together.
"""

from __future__ import annotations

import pytest

from bench.transfer_clients import Figures, Moved


def test_clients_count_from_the_first_start_to_the_last_end() -> None:
    """
    Two clients that hardly overlap are as slow together as they are, and their processors' time adds up.
    """
    figures = Figures.of([Moved(10, 12, 1, (900, 1100)), Moved(11, 14, 1, (1500, 1500))], 100)
    assert (figures.seconds, figures.rate, figures.cores) == (4, 100, 0.5)


def test_steps_one_after_the_other_move_the_bytes_once() -> None:
    """
    Hashing first makes an upload take longer, and is not an upload of its own.
    """
    hashed = Figures(seconds=1, rate=400, p50_ms=100, p95_ms=200, cores=1)
    sent = Figures(seconds=3, rate=400 / 3, p50_ms=300, p95_ms=400, cores=0.2)
    both = sent.after(hashed)
    assert (both.seconds, both.p50_ms, both.p95_ms) == (4, 400, 600)
    assert both.rate == pytest.approx(100)
    assert both.cores == pytest.approx(0.4)
