from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from services.chassis.observability.logs import setup
from services.chassis.serving import launcher
from services.chassis.settings import LogFormat, LogLevel
from services.chassis.tests import probe
from services.chassis.tests.behaviour.probe_process import free_ports


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


Launch = Callable[..., tuple[int, str]]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Launch]:
    """
    Calls the launcher's `main` in this process, for failures before a worker is started: exit code and output.
    """
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level

    def main(*arguments: str, **environment: str) -> tuple[int, str]:
        listen, metrics = free_ports(2)
        own = {"MODELYARD_LISTEN": f"127.0.0.1:{listen}", "MODELYARD_METRICS": f"127.0.0.1:{metrics}"}
        for name, value in {**own, "MODELYARD_LOG_FORMAT": "text", **environment}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            launcher.main(probe.__name__, probe.compose, argv=arguments)
        output, errors = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, output + errors

    yield main
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
