"""
Whom a process believes when it says on whose behalf it calls, and how much one of them may take.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from services.chassis.context import Context

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
# The first is what Envoy has made of the second, with the proxies before it taken into account.
_CLIENT = "x-envoy-external-address"
_FORWARDED = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Proxies:
    """
    The callers who may say who their own callers are, as the gateway does; what others say of that is not believed.

    Args:
        networks: where they call from.
        everybody: every caller is one, because only those who have shown a certificate of ours are let in.
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

    def client(self, context: Context) -> str:
        """
        The address of who has made a call, as far as it can be known.
        """
        peer = context.peer()
        if self.trust(peer):
            sent = {key: value for key, value in context.invocation_metadata() or () if key in {_CLIENT, _FORWARDED}}
            for name in (_CLIENT, _FORWARDED):
                if address := str(sent.get(name, "")).rpartition(",")[2].strip():
                    return address
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
