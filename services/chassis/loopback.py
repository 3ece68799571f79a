"""
Whether an address can only be reached from this machine.
"""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """
    Whether *host*, a name or an address without brackets, is this machine and nobody else's way to it.

    A name other than localhost is not: who answers for it is up to a resolver.
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
