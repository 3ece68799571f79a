"""
IP addresses as clients and settings write them.
"""

from __future__ import annotations

import ipaddress


def parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """
    The IP address in *host*, without its zone; an IPv4-mapped IPv6 address as IPv4. None if it is no IP address.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """
    Whether *host*, a name or an address without brackets, can only be reached from this machine.

    Host names other than localhost are not: a resolver decides what they stand for.
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    address = parse_ip(host)
    return address is not None and address.is_loopback
