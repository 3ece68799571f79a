"""
Trusted proxies, which may state the original caller's identity and address, and the limits on streams per client.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from services.chassis.loopback import parse_ip
from services.chassis.serving.context import Context, fit, values_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
#: The client's address as the gateway states it; the gateway strips this header from client requests.
CLIENT = "x-modelyard-client"
_MOST_CLIENT = 64


def peer_of(context: Context) -> str:
    """
    The peer of a call; "unknown:" when the call has ended: asking grpcio for it then crashes the process.
    """
    return "unknown:" if context.done() else context.peer()


@dataclass(frozen=True, slots=True)
class Proxies:
    """
    The trusted proxies, such as the gateway: only they may state the original caller.

    Args:
        networks: that they connect from.
        everybody: trust every caller, because mutual TLS admits only our own services.
    """

    networks: tuple[Network, ...] = LOOPBACK
    everybody: bool = False

    def trust(self, peer: str) -> bool:
        """
        Whether *peer* is a trusted proxy.

        Args:
            peer: as of `Context.peer`: "ipv4:127.0.0.1:41234".
        """
        return self.everybody or _within(_host(peer), self.networks)

    def client(self, context: Context, peer: str = "") -> str:
        """
        The address of the original caller, as far as it is known.

        Args:
            peer: of the call, if *context* can no longer be asked.
        """
        peer = peer or peer_of(context)
        if self.trust(peer):
            told = values_of(context, CLIENT)
            if len(told) == 1 and (client := fit(told[0], _MOST_CLIENT)):
                return client
        return _host(peer)


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    How many streams may be open in a process at a time.

    Args:
        per_client: of one client: the subject of a token, or without a token the address; 0 for no limit.
        most: of all clients; 0 for no limit.
    """

    per_client: int = 1000
    most: int = 10_000


def _host(peer: str) -> str:
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        # A Unix socket, which has file permissions.
        return peer
    return unquote(rest).rpartition(":")[0].strip("[]")


@lru_cache(maxsize=1024)
def _within(host: str, networks: tuple[Network, ...]) -> bool:
    if host.startswith("unix:"):
        return True
    address = parse_ip(host)
    return address is not None and any(address in network for network in networks)
