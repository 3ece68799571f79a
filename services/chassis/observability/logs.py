"""
Log records: one JSON object per line for machines, plain text for people. Never a payload, never a secret: a record
holds its message and what was given by name, and libraries that write requests at DEBUG are kept at WARNING.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from services.chassis.interceptors.call_context import current_call, named
from services.chassis.settings import LogFormat, LogLevel

# Our own loggers follow the setting. Others stay at WARNING, because some (botocore) write requests with their
# credentials and payloads at DEBUG.
_OURS = ("services", "modelyard", "__main__")

_OF_CALLS = ("request_id", "trace_id", "span_id")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", *_OF_CALLS})


def setup(
    format: LogFormat = LogFormat.AUTO,  # noqa: A002 - named as the setting
    level: LogLevel = LogLevel.INFO,
    *,
    stream: TextIO | None = None,
    fields: Mapping[str, str | int] | None = None,
) -> None:
    """
    Send all log records of this process to *stream*.

    Args:
        format: auto is text on a terminal and json elsewhere.
        level: the least level of our own records; those of libraries start at WARNING.
        stream: standard error by default.
        fields: put into every record, such as {"program": "services.registry", "worker": 1}.
    """
    stream = stream or sys.stderr
    if format is LogFormat.AUTO:
        format = LogFormat.TEXT if stream.isatty() else LogFormat.JSON  # noqa: A001 - the argument, decided
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_call)
    handler.setFormatter(JsonFormatter(fields or {}) if format is LogFormat.JSON else TextFormatter(fields or {}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.value.upper())
    logging.captureWarnings(True)


def _add_call(record: logging.LogRecord) -> bool:
    # Asked for when the record is handled, which is in the context of the call (asyncio.to_thread copies it).
    call = current_call()
    if call is not None and not hasattr(record, "request_id"):
        vars(record).update(named(call))
    return True


class JsonFormatter(logging.Formatter):
    """
    A record as one JSON object on one line: time (UTC), level, logger, message, within calls request_id, trace_id and
    span_id, then what was given as `extra`, then the exception with its traceback.
    """

    def __init__(self, fields: Mapping[str, str | int]) -> None:
        super().__init__()
        self._fields = dict(fields)

    def format(self, record: logging.LogRecord) -> str:
        """
        The line.
        """
        line: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        line |= {name: getattr(record, name) for name in _OF_CALLS if hasattr(record, name)}
        line |= _extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        # JSON escapes the first 32 of them itself.
        return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """
    A record as a person reads it; a traceback follows on lines of its own.
    """

    def __init__(self, fields: Mapping[str, str | int]) -> None:
        super().__init__()
        self._prefix = " ".join(str(value) for value in fields.values())

    def format(self, record: logging.LogRecord) -> str:
        """
        The line or lines.
        """
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {self._prefix}".rstrip()
        line = f"{head}  {_one_line(record.getMessage())}"
        if ids := [getattr(record, name) for name in _OF_CALLS[:2] if hasattr(record, name)]:
            line += f"  [{_one_line(' '.join(ids))}]"
        if record.exc_info:
            line += "\n" + "\n".join(map(_one_line, self.formatException(record.exc_info).split("\n")))
        return line


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _one_line(message: str) -> str:
    # A client's text in a message must not look like a record of its own, nor steer the terminal that shows it: what is
    # no sign (C0 and C1 controls such as ESC, and those that turn the direction of a line) is shown by its number.
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), message)


def _utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
