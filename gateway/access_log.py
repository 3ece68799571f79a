"""
What the gateway writes of requests, and how it counts those that it refuses.

A line is a JSON object. It names the client, never what a client may keep to itself: no token, no query of a path
(which may be a signature), no body.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LOGGERS: Final = "type.googleapis.com/envoy.extensions.access_loggers"
_UNAUTHENTICATED, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED = "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"


def _first(*operators: tuple[str, str], most: int) -> str:
    """
    The first of these that is there.
    """
    config = json.dumps({"operators": [{"command": command, "param": param} for command, param in operators]})
    return f"%COALESCE({config}):{most}%"


# What a client sends is cut off where it is longer than anything honest. assets.lua puts aside what S3 is not told.
_LINE: Final[Mapping[str, str]] = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    # Not from the headers: they are removed from requests to S3 before the line is written.
    "subject": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:claims:sub):256%",
    "request_id": _first(("DYNAMIC_METADATA", "assets:request_id"), ("REQ", "X-REQUEST-ID"), most=128),
    "protocol": "%PROTOCOL%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD):32%",
    # The original path, and the RPC that JSON was transcoded to.
    "path": _first(("DYNAMIC_METADATA", "assets:key"), ("PATH", "NQ:ORIG_OR_PATH"), most=512),
    "rpc": "%PATH(NQ:PATH):256%",
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    # In milliseconds: to the last byte of the response, to that of the request, to the first byte of the response.
    "duration_ms": "%DURATION%",
    "request_ms": "%REQUEST_DURATION%",
    "response_ms": "%RESPONSE_DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "user_agent": "%REQ(USER-AGENT):128%",
}


@dataclass(frozen=True, slots=True)
class AccessLog:
    """
    Destination and sampling of the access log.

    Args:
        file: of the log; None is standard output.
        percent: percentage of successful requests that are logged; failures always are.

    Raises:
        ValueError: that is no percentage.
    """

    file: Path | None = None
    percent: float = 1.0

    def __post_init__(self) -> None:
        """
        Check it.
        """
        if not 0 <= self.percent <= 100:
            raise ValueError("--access-log-percent must be between 0 and 100")

    def values(self) -> dict[str, object]:
        """
        The values of placeholders in `envoy.yaml`.
        """
        return {"ACCESS_LOG": [self._lines(), _refusals(), _unanswered()]}

    def _lines(self) -> dict[str, object]:
        line = {"json_format": dict(_LINE)}
        if self.file is None:
            config = {"@type": f"{_LOGGERS}.stream.v3.StdoutAccessLog", "log_format": line}
        else:
            config = {"@type": f"{_LOGGERS}.file.v3.FileAccessLog", "path": str(self.file), "log_format": line}
        sampled = {
            "runtime_key": "access_log.sampled",
            "percent_sampled": {"numerator": round(self.percent * 10_000), "denominator": "MILLION"},
            # Not by the request id: a client could choose one that is never sampled.
            "use_independent_randomness": True,
        }
        return {
            "name": "lines",
            "filter": _any_of(
                _status("GE", 400), _grpc({"statuses": ["OK"], "exclude": True}), {"runtime_filter": sampled}
            ),
            "typed_config": config,
        }


STANDARD_OUTPUT: Final = AccessLog()


def _refusals() -> dict[str, object]:
    """
    A counter of rejected requests by cause, which is Envoy's response code detail: a few dozen values.
    """
    statuses = [_UNAUTHENTICATED, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED]
    refused = {"name": "refused", "tags": [{"name": "cause", "value_format": "%RESPONSE_CODE_DETAILS%"}]}
    return {
        "name": "refused",
        "filter": _any_of(*(_status("EQ", status) for status in (401, 403, 429)), _grpc({"statuses": statuses})),
        "typed_config": {
            "@type": f"{_LOGGERS}.stats.v3.Config",
            # Bounds the cardinality.
            "stats_scope": {"prefix": "gateway", "max_counters": 64},
            "counters": [{"stat": refused, "value_fixed": 1}],
        },
    }


# Envoy's gRPC statistics count a JSON call only if a service responds.
_OWN_FAILURES: Final = (
    "'x-envoy-original-path' in request.headers && response.code >= 500 && response.code_details != 'via_upstream'"
)


def _unanswered() -> dict[str, object]:
    """
    A counter of the JSON calls that the gateway answered itself with 5xx, because no service did.
    """
    return {
        "name": "unanswered",
        "filter": _expression(_OWN_FAILURES),
        "typed_config": {
            "@type": f"{_LOGGERS}.stats.v3.Config",
            "stats_scope": {"prefix": "gateway"},
            "counters": [{"stat": {"name": "unanswered_json"}, "value_fixed": 1}],
        },
    }


def _expression(expression: str) -> dict[str, object]:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {"@type": f"{_LOGGERS}.filters.cel.v3.ExpressionFilter", "expression": expression},
        }
    }


def _any_of(*filters: Mapping[str, object]) -> dict[str, object]:
    return {"or_filter": {"filters": list(filters)}}


def _status(op: str, status: int) -> dict[str, object]:
    return {"status_code_filter": {"comparison": {"op": op, "value": {"default_value": status, "runtime_key": "none"}}}}


# gRPC-Web has its status at the end of the body, unless it is a trailers-only response.
_TOLD: Final = (
    "!('content-type' in response.headers && response.headers['content-type'].startsWith('application/grpc-web'))"
    " || 'grpc-status' in response.headers"
)


def _grpc(statuses: Mapping[str, object]) -> dict[str, object]:
    # Only if the response has one: otherwise Envoy derives it from the HTTP status, and 200 becomes UNKNOWN.
    there = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
    return {"and_filter": {"filters": [there, _expression(_TOLD), {"grpc_status_filter": dict(statuses)}]}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    The flags of `gateway.render` for the access log.
    """
    parser.add_argument(
        "--access-log",
        type=Path,
        metavar="FILE",
        help="append the access log to FILE; it contains personal data; default standard output",
    )
    parser.add_argument(
        "--access-log-percent",
        type=float,
        default=STANDARD_OUTPUT.percent,
        metavar="N",
        help=f"percentage of successes logged, 0 to 100; failures always are; default {STANDARD_OUTPUT.percent:g}",
    )


def parse(found: argparse.Namespace) -> AccessLog:
    """
    Raises:
        ValueError: see `AccessLog`.
    """
    return AccessLog(found.access_log, found.access_log_percent)
