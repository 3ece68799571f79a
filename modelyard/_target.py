"""
Where a client connects to: what a target says, and the proxy on the way.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NoReturn
from urllib.parse import urlsplit

import grpc

_PORTS = {"http": 80, "https": 443}
# gRPC's own ways to name an address.
_RESOLVERS = re.compile(r"(dns:(?://[^/]*/)?|ipv4:|ipv6:)(.*)")
# In the order in which gRPC looks at them; of the others it takes the first that is set.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def parse_target(
    target: str, credentials: grpc.ChannelCredentials | None
) -> tuple[str, grpc.ChannelCredentials | None]:
    """
    The address in *target*, and the credentials for TLS (None without TLS).

    Args:
        target: host:port, an http:// or https:// address, or one of gRPC's own (dns:///host:port, ipv4:…, ipv6:…,
            unix:path); https means TLS. Blanks around it are nothing.
        credentials: for TLS; None means the system's roots when *target* says https.

    Raises:
        ValueError: *target* is no address, or says http while there are credentials; the text says what is wrong.
    """
    text = target.strip()
    if not text:
        _refuse(text, "is empty")
    if re.search(r"\s", text):
        _refuse(text, "has a blank in it")
    if text.startswith(("unix:", "unix-abstract:")):
        return text, credentials
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() in _PORTS:
        if scheme.lower() == "http" and credentials is not None:
            raise ValueError(f"{_shown(text)} is not TLS, so credentials cannot be used with it")
        if scheme.lower() == "https" and credentials is None:
            credentials = grpc.ssl_channel_credentials()
        return _address(text, rest, _PORTS[scheme.lower()]), credentials
    if found := _RESOLVERS.fullmatch(text):
        return found[1] + _address(text, found[2], None), credentials
    if separator:
        _refuse(text, f"begins with {scheme}://")
    return _address(text, text, None), credentials


def _address(target: str, text: str, port: int | None) -> str:
    """
    *text* as host:port.
    """
    place = re.match(r"[^/?#]*", text)
    host = place[0] if place else ""
    if "@" in host:
        _refuse(target, "has a user in it: a token is who you are")
    if text[len(host) :] not in ("", "/"):
        _refuse(target, f"has a path: {text[len(host) :]}. A gateway is at the root of its address")
    if host.count(":") > 1 and not host.startswith("["):
        _refuse(target, f"is an IPv6 address: write [{host}]:8080")
    name, colon, number = host.rpartition(":") if re.search(r":[^\]]*$", host) else (host, "", "")
    if not name:
        _refuse(target, "names no host")
    if not number and port is None:
        _refuse(target, f"names no port: write {name}:8080, or https://{name} for port 443")
    if not number:
        return f"{name}:{port}"
    if not re.fullmatch(r"[0-9]{1,5}", number) or not 0 < int(number) < 65536:
        _refuse(target, f"has no port but {number!r}")
    return f"{name}{colon}{number}"


def _refuse(target: str, fault: str) -> NoReturn:
    raise ValueError(f"the target {_shown(target)!r} {fault}; a target is host:port or an https:// address")


def _shown(target: str) -> str:
    # Whatever is before an @ may be a secret.
    return re.sub(r"[^/]*@", "...@", target)


def host_of(address: str) -> str:
    """
    The host of an address as `parse_target` gives it; empty for a socket.
    """
    if address.startswith("unix"):
        return ""
    found = _RESOLVERS.fullmatch(address)
    return (found[2] if found else address).rpartition(":")[0].strip("[]")


def is_loopback(address: str) -> bool:
    """
    Whether an address is this machine's own.
    """
    host = host_of(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def proxy_of(address: str) -> tuple[str, str] | None:
    """
    The proxy that gRPC asks for an address: the variable of the environment that names it, and its address without a
    user. None for none.

    Source: https://github.com/grpc/grpc/blob/master/doc/environment_variables.md (http_proxy, no_proxy)
    """
    if is_loopback(address):
        return None
    named = next(((name, value) for name in _PROXIES if (value := os.environ.get(name))), None)
    excepted = next((value for name in _EXCEPTIONS if (value := os.environ.get(name))), "")
    host = host_of(address)
    if named is None or any(host.endswith(each.strip()) for each in excepted.split(",") if each.strip()):
        return None
    parts = urlsplit(named[1])
    return named[0], f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
