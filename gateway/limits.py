"""
What one client, and all of them together, may take of the gateway. Each number is in docs/protection.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Final

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2

_MIB: Final = 1 << 20
#: As many clients as have a bucket of their own at a time; the one that was heard of longest ago is forgotten.
_CLIENTS: Final = 20_000
_OFF: Final = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
RETRY_AFTER: Final = 1  # seconds: buckets are filled every second
#: Seconds by which the gateway ends a call later than its service has to.
GRACE: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds of the gateway.

    Args:
        calls_per_client: calls a second of one client, who is the subject of a verified token, and the address of a
            caller without one; None for no bound. Twice as many may come at once.
        calls: calls a second of all clients together; the same.
        heap: MiB of memory. From 95 % on calls are shed.
        connections: of clients, at a time.
        streams: calls in flight on one HTTP/2 connection.
        proxies: trusted ones before the gateway, whose `x-forwarded-for` tells the client's address.
        message: MiB of a request that is one message: no less than MODELYARD_MAX_MESSAGE_BYTES of the services, who say
            what is wrong with a larger one.
        read_seconds: the longest that a unary call may take that only reads, whatever its deadline.
        write_seconds: the same for one that writes.
        idle_seconds: that a stream of messages may be silent in both directions.
    """

    calls_per_client: int | None = None
    calls: int | None = None
    heap: int = 1024
    connections: int = 10_000
    streams: int = 512
    proxies: int = 0
    message: int = 16
    read_seconds: int = 60
    write_seconds: int = 300
    idle_seconds: int = 3600

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a number is out of range; the message names it.
        """
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name == "proxies" else 1
            if value is not None and value < least:
                raise ValueError(f"{each.name.replace('_', ' ')}: {value} is less than {least}")

    def values(self) -> dict[str, object]:
        """
        What `envoy.yaml` is filled in with.
        """
        return {
            "HEAP": self.heap * _MIB,
            "CONNECTIONS": self.connections,
            "MAX_STREAMS": self.streams,
            "PROXIES": self.proxies,
            "MOST_BYTES": (self.message + 1) * _MIB,
            "READ_END": f"{self.read_seconds + GRACE}s",
            "WRITE_END": f"{self.write_seconds + GRACE}s",
            "IDLE_TIME": f"{self.idle_seconds}s",
            "RATES": [self._rates()] if self.calls or self.calls_per_client else [],
            "ANY_RATE": {"rates": _OFF} if self.calls or self.calls_per_client else None,
            "RETRY_AFTER": str(RETRY_AFTER),
            "RETRY_INFO": retry_info(),
        }

    def _rates(self) -> dict[str, object]:
        # Without a bound for all: as good as none. The filter wants one.
        bucket = _bucket(self.calls or 1_000_000_000)
        if self.calls_per_client is None:
            return {"bucket": bucket, "descriptors": [], "actions": [], "clients": None}
        own = _bucket(self.calls_per_client)
        subject = {"name": "x-modelyard-subject", "present_match": True}
        return {
            "bucket": bucket,
            # An entry without a value stands for every value, each with a bucket of its own.
            "descriptors": [
                {"entries": [{"key": "subject"}], "token_bucket": own},
                {"entries": [{"key": "anonymous", "value": "yes"}, {"key": "remote_address"}], "token_bucket": own},
            ],
            "actions": [
                {"actions": [{"request_headers": {"header_name": subject["name"], "descriptor_key": "subject"}}]},
                {
                    "actions": [
                        {
                            "header_value_match": {
                                "descriptor_key": "anonymous",
                                "descriptor_value": "yes",
                                "expect_match": False,
                                "headers": [subject],
                            }
                        },
                        {"remote_address": {}},
                    ]
                },
            ],
            "clients": _CLIENTS,
        }


USUAL: Final = Limits()


def retry_info() -> dict[str, object]:
    """
    When to come back, as JSON has it in google.rpc.Status.
    """
    info = any_pb2.Any()
    info.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_AFTER)))
    return {"@type": info.type_url, "retryDelay": f"{RETRY_AFTER}s"}


def _bucket(rate: int) -> dict[str, object]:
    return {"max_tokens": 2 * rate, "tokens_per_fill": rate, "fill_interval": "1s"}


_FLAGS: Final = {
    "calls_per_client": (
        "--calls-per-client",
        "N",
        "a second, of one token's subject or one address; default no bound",
    ),
    "calls": ("--calls", "N", "a second, of all clients together; default no bound"),
    "heap": ("--heap", "MIB", "of memory, near which calls are shed"),
    "connections": ("--connections", "N", "of clients at a time"),
    "streams": ("--streams", "N", "calls in flight on one connection"),
    "proxies": ("--proxies", "N", "trusted ones in front, whose x-forwarded-for counts"),
    "message": ("--message", "MIB", "of a request that is one message"),
    "read_seconds": ("--read-seconds", "N", "the longest that a unary call may take that reads"),
    "write_seconds": ("--write-seconds", "N", "the longest that a unary call may take that writes"),
    "idle_seconds": ("--idle-seconds", "N", "that a stream may be silent"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    The flags of `gateway.render` for limits.
    """
    for name, (flag, unit, text) in _FLAGS.items():
        value = getattr(USUAL, name)
        shown = text if value is None else f"{text}; default {value}"
        parser.add_argument(flag, dest=name, type=int, default=value, metavar=unit, help=shown)


def parse(found: argparse.Namespace) -> Limits:
    """
    Raises:
        ValueError: a number is out of range; the message names it.
    """
    return Limits(**{name: getattr(found, name) for name in _FLAGS})
