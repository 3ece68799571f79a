"""
Rate and resource limits, per client and global. docs/protection.md explains each number.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2

_MIB: Final = 1 << 20
#: Number of clients with a token bucket of their own; the least recently seen is evicted.
_CLIENTS: Final = 20_000
_OFF: Final = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
RETRY_AFTER: Final = 1  # seconds: buckets are filled every second
#: Seconds after the deadline of a service at which the gateway ends a call.
GRACE: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Limits of the gateway.

    Args:
        calls_per_client: calls per second of one client: the subject of a verified token, or without a token the IP
            address (of IPv6 the /64 prefix); None for no limit. Bursts may have twice as many.
        refused_per_client: calls per second of one address without a valid token where one is required; as above.
        calls: calls per second of all clients together; as above.
        heap: memory limit in MiB. From 95 % on the gateway sheds load.
        connections: concurrent client connections.
        streams: concurrent calls on one HTTP/2 connection.
        proxies: number of trusted proxies in front of the gateway, whose `x-forwarded-for` gives the client's address.
        message: maximum size of a unary request in MiB: at least MODELYARD_MAX_MESSAGE_BYTES of the services, which
            report a more precise error.
        read_seconds: maximum duration of a unary read in seconds, whatever its deadline.
        write_seconds: the same for a unary write.
        idle_seconds: idle timeout of a stream of messages, in both directions.
    """

    calls_per_client: int | None = None
    refused_per_client: int = 200
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

    def values(self, refused: Sequence[Mapping[str, object]] = ()) -> dict[str, object]:
        """
        The values of placeholders in `envoy.yaml`.

        Args:
            refused: header matchers of calls that will be rejected for lack of a valid token: `gateway.access.refused`.
        """
        clients = self._client_rates(refused)
        # Health checks are exempt from rate limits.
        any_rate = {name: _OFF for name, there in (("client-rates", clients), ("rates", self.calls)) if there}
        return {
            "HEAP": self.heap * _MIB,
            "CONNECTIONS": self.connections,
            "MAX_STREAMS": self.streams,
            "PROXIES": self.proxies,
            "MOST_BYTES": (self.message + 1) * _MIB,
            "READ_END": f"{self.read_seconds + GRACE}s",
            "WRITE_END": f"{self.write_seconds + GRACE}s",
            "IDLE_TIME": f"{self.idle_seconds}s",
            "CLIENT_RATES": clients,
            "RATES": [] if self.calls is None else [_rates(_bucket(self.calls))],
            "ANY_RATE": any_rate or None,
            "RETRY_AFTER": str(RETRY_AFTER),
            "RETRY_INFO": retry_info(),
        }

    def _client_rates(self, refused: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        """
        The filter with a bucket for each client, or none.
        """
        subject = {"name": "x-modelyard-subject", "present_match": True}
        found: list[tuple[dict[str, object], dict[str, object]]] = []
        if self.calls_per_client is not None:
            own = _bucket(self.calls_per_client)
            named = {"request_headers": {"header_name": subject["name"], "descriptor_key": "subject"}}
            found.append(({"entries": [{"key": "subject"}], "token_bucket": own}, {"actions": [named]}))
            found.append(_by_address("anonymous", own, [subject], expected=False))
        if refused:
            found.append(_by_address("refused", _bucket(self.refused_per_client), refused))
        # The filter requires a global bucket: this one is never empty.
        return [_rates(_bucket(1_000_000_000), found)] if found else []


def _by_address(
    what: str, bucket: Mapping[str, object], headers: Sequence[Mapping[str, object]], *, expected: bool = True
) -> tuple[dict[str, object], dict[str, object]]:
    """
    A bucket for each address whose calls have these headers, or *expected* or not: the descriptor, and what makes it.
    """
    matched = {"descriptor_key": what, "descriptor_value": "yes", "expect_match": expected, "headers": list(headers)}
    # A client usually has a whole /64 of IPv6 addresses.
    address = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
    entries = [{"key": what, "value": "yes"}, {"key": "masked_remote_address"}]
    return {"entries": entries, "token_bucket": bucket}, {"actions": [{"header_value_match": matched}, address]}


def _rates(
    bucket: Mapping[str, object], clients: Sequence[tuple[dict[str, object], dict[str, object]]] = ()
) -> dict[str, object]:
    """
    A rate limit filter with a global bucket and others by descriptor. A descriptor entry without a value matches every
    value, each with a bucket of its own.
    """
    descriptors, actions = [one for one, _ in clients], [one for _, one in clients]
    return {
        "bucket": bucket,
        "descriptors": descriptors,
        "actions": actions,
        "clients": _CLIENTS if clients else None,
    }


USUAL: Final = Limits()


def retry_info() -> dict[str, object]:
    """
    The google.rpc.RetryInfo of a rate-limited call, as JSON in google.rpc.Status.
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
        "calls per second of one client: a token's subject or an address; default no limit",
    ),
    "refused_per_client": (
        "--refused-per-client",
        "N",
        "calls per second of one address without a valid token where one is required",
    ),
    "calls": ("--calls", "N", "calls per second of all clients together; default no limit"),
    "heap": ("--heap", "MIB", "memory limit, near which load is shed"),
    "connections": ("--connections", "N", "concurrent client connections"),
    "streams": ("--streams", "N", "concurrent calls on one connection"),
    "proxies": ("--proxies", "N", "trusted proxies in front, whose x-forwarded-for is used"),
    "message": ("--message", "MIB", "maximum size of a unary request"),
    "read_seconds": ("--read-seconds", "N", "maximum duration of a unary read in seconds"),
    "write_seconds": ("--write-seconds", "N", "maximum duration of a unary write in seconds"),
    "idle_seconds": ("--idle-seconds", "N", "idle timeout of streams in seconds"),
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
