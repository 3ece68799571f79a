"""
The settings that every service has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.chassis.settings.kinds import Address, address, choice, integer, seconds, url
from services.chassis.settings.loading import setting


class HostChoice(StrEnum):
    """
    What serves the calls: see DESIGN D1.
    """

    AUTO = "auto"
    ENVOY = "envoy"
    GRPCIO = "grpcio"


class LogFormat(StrEnum):
    """
    How log records are written: json for machines, text for people, auto by whether stderr is a terminal.
    """

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """
    The least level that is written.
    """

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """
    What a process needs to serve: derive from it, and override a field to give it another default.
    """

    host: HostChoice = setting(
        "MODELYARD_HOST",
        choice(HostChoice),
        default=HostChoice.AUTO,
        help="what serves the calls; auto takes envoy and falls back to grpcio",
    )
    listen: Address = setting(
        "MODELYARD_LISTEN",
        address(),
        default=Address("127.0.0.1", 50051),
        help="where to serve gRPC; worker i takes the i-th port after it",
    )
    metrics: Address = setting(
        "MODELYARD_METRICS",
        address(),
        default=Address("127.0.0.1", 9464),
        help="where to serve Prometheus metrics; worker i takes the i-th port after it",
    )
    log_format: LogFormat = setting(
        "MODELYARD_LOG_FORMAT",
        choice(LogFormat),
        default=LogFormat.AUTO,
        help="how to write the log; auto is text on a terminal and json elsewhere",
    )
    log_level: LogLevel = setting(
        "MODELYARD_LOG_LEVEL",
        choice(LogLevel),
        default=LogLevel.INFO,
        help="the least level to log; debug also writes a line per call",
    )
    drain_seconds: float = setting(
        "MODELYARD_DRAIN_SECONDS",
        seconds(0, 3600),
        default=15.0,
        help="how long calls in flight may go on after SIGTERM",
    )
    max_message_bytes: int = setting(
        "MODELYARD_MAX_MESSAGE_BYTES",
        integer(1024, 1 << 30),
        default=16 << 20,
        help="the largest message accepted or sent",
    )
    default_deadline_seconds: float = setting(
        "MODELYARD_DEFAULT_DEADLINE_SECONDS",
        seconds(0.1, 3600),
        default=60.0,
        help="the deadline of a unary call whose client set none",
    )
    slow_call_seconds: float = setting(
        "MODELYARD_SLOW_CALL_SECONDS",
        seconds(0.001, 3600),
        default=0.5,
        help="a unary call that takes longer is logged as a warning",
    )
    otlp_endpoint: str | None = setting(
        "MODELYARD_OTLP_ENDPOINT",
        url("http", "https"),
        default=None,
        help="where to send spans by OTLP over gRPC, such as http://127.0.0.1:4317; unset sends none",
    )
