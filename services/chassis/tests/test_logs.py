"""
What is written is one record per line, readable by machines or by people, without secrets.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from services.chassis.observability.logs import setup
from services.chassis.settings import LogFormat, LogLevel, Secret

_log = logging.getLogger("services.test")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """
    Leave logging as it was.
    """
    loggers = [logging.getLogger(name) for name in ("", "services", "modelyard", "__main__")]
    levels = [logger.level for logger in loggers]
    handlers = loggers[0].handlers[:]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    loggers[0].handlers[:] = handlers
    logging.captureWarnings(False)


def _json(level: LogLevel = LogLevel.INFO, **fields: str | int) -> io.StringIO:
    stream = io.StringIO()
    setup(LogFormat.JSON, level, stream=stream, fields=fields)
    return stream


def test_a_record_is_one_json_object_on_one_line() -> None:
    """
    Time in UTC, level, logger, message, the process's fields and what was given by name: line breaks cannot split it.
    """
    stream = _json(program="services.test", worker=1)
    _log.info("two\nlines of %s", "text", extra={"code": "OK", "odd": {1, 2}})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("time")).utcoffset() is not None
    assert record.pop("odd") == "{1, 2}"
    assert record == {
        "level": "INFO",
        "logger": "services.test",
        "message": "two\nlines of text",
        "program": "services.test",
        "worker": 1,
        "code": "OK",
    }


def test_a_traceback_stays_in_its_record() -> None:
    """
    An exception is a field of the record, not lines after it.
    """
    stream = _json()
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        _log.exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError: broken" in json.loads(line)["exception"]


def test_auto_is_json_unless_a_person_reads() -> None:
    """
    A terminal gets text, anything else gets JSON.
    """
    pipe, terminal = io.StringIO(), _Terminal()
    setup(LogFormat.AUTO, LogLevel.INFO, stream=pipe)
    _log.info("hello")
    setup(LogFormat.AUTO, LogLevel.INFO, stream=terminal)
    _log.info("hello")
    assert json.loads(pipe.getvalue())["message"] == "hello"
    assert terminal.getvalue().rstrip().endswith("hello")
    assert not terminal.getvalue().startswith("{")


def test_text_cannot_be_forged() -> None:
    """
    A line break in a message does not start what looks like another record.
    """
    stream = io.StringIO()
    setup(LogFormat.TEXT, LogLevel.INFO, stream=stream)
    _log.info("name is %s", "x\n12:00:00.000 ERROR  forged")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("format", [LogFormat.TEXT, LogFormat.JSON])
def test_a_terminal_cannot_be_steered(format: LogFormat) -> None:  # noqa: A002 - named as the setting
    """
    What a client sends reaches whoever reads the log as text: no escape sequences, which could clear the screen, change
    its title or hide what was there, neither in a message nor in an error, and nothing that turns the line around.
    """
    stream = io.StringIO()
    setup(format, LogLevel.INFO, stream=stream)
    sent = "\x1b]0;owned\x07\x1b[2J \x9b31m \x7f \u202egnp\u2028 \r and é ✓"
    try:
        raise ValueError(sent)
    except ValueError:
        _log.exception("name is %s", sent)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", stream.getvalue())
    assert stream.getvalue().count("é ✓") == 2
    if format is LogFormat.JSON:
        assert json.loads(stream.getvalue())["message"] == f"name is {sent}"


def test_libraries_do_not_get_to_write_requests() -> None:
    """
    At DEBUG our own records are written; those of libraries, some of which hold credentials, only from WARNING on.
    """
    stream = _json(LogLevel.DEBUG)
    _log.debug("ours")
    logging.getLogger("botocore.auth").debug("Authorization: AWS4-HMAC-SHA256 hunter2")
    logging.getLogger("botocore.auth").warning("theirs")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours", "theirs"]


def test_secrets_do_not_show_themselves() -> None:
    """
    A secret that is logged by mistake, alone, in a value, or as a field, is not there.
    """
    stream = _json()
    secret = Secret("hunter2")
    _log.info("%s %r %s", secret, secret, {"password": secret}, extra={"password": secret})
    assert "hunter2" not in stream.getvalue()


def test_levels_below_the_setting_are_not_written() -> None:
    """
    The setting is the least level.
    """
    stream = _json(LogLevel.WARNING)
    _log.info("not this")
    _log.warning("this")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["this"]


def test_setting_up_again_replaces() -> None:
    """
    A second setup does not make every record appear twice.
    """
    _json()
    stream = _json()
    _log.info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_warnings_are_records_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What the warnings module reports arrives as a record, not as stray text on stderr.
    """
    stray = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stray)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = _json()
        warnings.warn("beware", stacklevel=1)
        logging.captureWarnings(False)
    assert "beware" in json.loads(stream.getvalue())["message"]
    assert stray.getvalue() == ""
