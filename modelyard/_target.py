"""
The target of a client: address, TLS, and the proxy that gRPC uses for it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NoReturn
from urllib.parse import urlsplit

import grpc

_PORTS = {"http": 80, "https": 443}
# Name resolution schemes of gRPC.
_RESOLVERS = re.compile(r"(dns:(?://[^/]*/)?|ipv4:|ipv6:)(.*)")
# In the order of precedence in gRPC.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def parse_target(
    target: str, credentials: grpc.ChannelCredentials | None
) -> tuple[str, grpc.ChannelCredentials | None]:
    """
    The address in *target*, and the credentials for TLS (None without TLS).

    Args:
        target: host:port, an http:// or https:// URL, or a name of gRPC (dns:///host:port, ipv4:…, ipv6:…, unix:path);
            https means TLS. Surrounding blanks are ignored.
        credentials: TLS credentials; None means the system's CA bundle for an https target.

    Raises:
        ValueError: *target* is invalid, or is http with credentials.
    """
    text = target.strip()
    if not text:
        _refuse(text, "is empty")
    if re.search(r"\s", text):
        _refuse(text, "contains a blank")
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
        _refuse(target, "contains a user: clients authenticate with a token")
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
    # What precedes an @ may be a secret.
    return re.sub(r"[^/]*@", "...@", target)


def host_of(address: str) -> str:
    """
    The host of an address as returned by `parse_target`; empty for a Unix socket.
    """
    if address.startswith("unix"):
        return ""
    found = _RESOLVERS.fullmatch(address)
    return (found[2] if found else address).rpartition(":")[0].strip("[]")


def server_of(address: str, *, secure: bool) -> str:
    """
    The URL that names a server for its login; empty if no token of a login may be sent there: over plain text to
    another machine, or a Unix socket, which has no URL.

    Args:
        address: as returned by `parse_target`.
        secure: whether the connection uses TLS.
    """
    if address.startswith("unix") or not (secure or is_loopback(address)):
        return ""
    found = _RESOLVERS.fullmatch(address)
    return f"{'https' if secure else 'http'}://{(found[2] if found else address).lower()}"


def is_loopback(address: str) -> bool:
    """
    Whether an address is loopback.
    """
    host = host_of(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def proxy_of(address: str) -> tuple[str, str] | None:
    """
    The proxy that gRPC uses for an address: the environment variable that names it, and its URL without user and
    password. None without a proxy.

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
