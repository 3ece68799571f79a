"""
Trusted proxies, which may state the original caller's identity and address, and the limits on streams per client.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from services.chassis.serving.context import Context, fit, values_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
#: What the gateway says of whose call it is; what clients send of that name, it drops.
CLIENT = "x-modelyard-client"
_MOST_CLIENT = 64


def peer_of(context: Context) -> str:
    """
    Where a call comes from; "unknown:" when it has ended, because grpcio ends the process that asks it then.
    """
    return "unknown:" if context.done() else context.peer()


@dataclass(frozen=True, slots=True)
class Proxies:
    """
    The trusted proxies, such as the gateway: only they may state who their own callers are.

    Args:
        networks: where they call from.
        everybody: trust every caller, because mutual TLS admits only our own services.
    """

    networks: tuple[Network, ...] = LOOPBACK
    everybody: bool = False

    def trust(self, peer: str) -> bool:
        """
        Whether *peer* is one.

        Args:
            peer: as of `Context.peer`: "ipv4:127.0.0.1:41234".
        """
        return self.everybody or _within(_host(peer), self.networks)

    def client(self, context: Context, peer: str = "") -> str:
        """
        The address of the original caller, as far as it is known.

        Args:
            peer: where it came from, if *context* cannot be asked any more.
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
        per_client: of one client, who is the subject of a token, and an address without one; 0 for no bound.
        most: of all of them; 0 for no bound.
    """

    per_client: int = 1000
    most: int = 10_000


def _host(peer: str) -> str:
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        # A socket's file, which has permissions.
        return peer
    return unquote(rest).rpartition(":")[0].strip("[]")


@lru_cache(maxsize=1024)
def _within(host: str, networks: tuple[Network, ...]) -> bool:
    if host.startswith("unix:"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
