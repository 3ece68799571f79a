from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from services.chassis.observability.logs import setup
from services.chassis.settings import LogFormat, LogLevel


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """
    What the process logs, as JSON lines from DEBUG on.
    """
    root, ours = logging.getLogger(), logging.getLogger("services")
    before = (root.handlers[:], root.level, ours.level)
    stream = io.StringIO()
    setup(LogFormat.JSON, LogLevel.DEBUG, stream=stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
