"""
What one client, and all of them together, may take of the gateway. Each number is in docs/protection.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
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
            caller without one (of IPv6 its /64); None for no bound. Twice as many may come at once.
        refused_per_client: calls a second of one address without a token that is good, where one is needed; the same.
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
        What `envoy.yaml` is filled in with.

        Args:
            refused: the headers of calls that will be refused for want of a token, see `gateway.access.refused`.
        """
        clients = self._client_rates(refused)
        # Whoever asks how it is has an answer.
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
        # For all together: as good as none. The filter wants one.
        return [_rates(_bucket(1_000_000_000), found)] if found else []


def _by_address(
    what: str, bucket: Mapping[str, object], headers: Sequence[Mapping[str, object]], *, expected: bool = True
) -> tuple[dict[str, object], dict[str, object]]:
    """
    A bucket for each address whose calls have these headers, or *expected* or not: the descriptor, and what makes it.
    """
    matched = {"descriptor_key": what, "descriptor_value": "yes", "expect_match": expected, "headers": list(headers)}
    # Whoever has an IPv6 address has at least 2 ** 64 of them.
    address = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
    entries = [{"key": what, "value": "yes"}, {"key": "masked_remote_address"}]
    return {"entries": entries, "token_bucket": bucket}, {"actions": [{"header_value_match": matched}, address]}


def _rates(
    bucket: Mapping[str, object], clients: Sequence[tuple[dict[str, object], dict[str, object]]] = ()
) -> dict[str, object]:
    """
    A filter of rates, with a bucket for all, and others by what is said of a call. An entry of a descriptor without a
    value stands for every value, each with a bucket of its own.
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
    "refused_per_client": (
        "--refused-per-client",
        "N",
        "a second, of one address, that lack a good token where one is needed",
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
