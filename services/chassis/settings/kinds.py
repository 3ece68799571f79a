"""
The kinds of values that a setting may have: what each accepts, and how it is shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Generic, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """
    How the text of an environment variable becomes a value.

    Args:
        expects: what is right, for people: "host:port, such as 127.0.0.1:50051".
        parse: the value of a text. A ValueError's message is added to *expects*.
        show: the text as it may be printed; hides what could be a password.
    """

    expects: str
    parse: Callable[[str], T]
    show: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Address:
    """
    A host and a port. IPv6 hosts are held without brackets and printed with them.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, value: str) -> Address:
        """
        Raises:
            ValueError: not host:port.
        """
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/@\[\],]+)):([0-9]{1,5})", value)
        if match is None:
            raise ValueError("this is not host:port")
        port = int(match[3])
        if not 1 <= port <= 65535:
            raise ValueError("ports go from 1 to 65535")
        return cls(match[1] or match[2], port)

    def plus(self, offset: int) -> Address:
        """
        The address *offset* ports further: worker i listens on the i-th port after the first.
        """
        return Address(self.host, self.port + offset)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def text() -> Kind[str]:
    """
    Any text on one line.
    """

    def parse(value: str) -> str:
        if not value.isprintable():
            raise ValueError("it has unprintable characters")
        return value

    return Kind("a text", parse)


def boolean() -> Kind[bool]:
    """
    true or false.
    """
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

    def parse(value: str) -> bool:
        if value.lower() not in words:
            raise ValueError("")
        return words[value.lower()]

    return Kind("true or false", parse)


def integer(least: int, most: int) -> Kind[int]:
    """
    A whole number from *least* to *most*, both included.
    """

    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
            raise ValueError("")
        if not least <= int(value) <= most:
            raise ValueError("it is out of bounds")
        return int(value)

    return Kind(f"a whole number from {least} to {most}", parse)


def seconds(least: float, most: float) -> Kind[float]:
    """
    A span of time in seconds from *least* to *most*, both included; fractions are welcome.
    """

    def parse(value: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", value):
            raise ValueError("write it without a unit, such as 2.5")
        number = float(value)
        if not (math.isfinite(number) and least <= number <= most):
            raise ValueError("it is out of bounds")
        return number

    return Kind(f"seconds from {least:g} to {most:g}", parse)


def delays() -> Kind[dict[str, float]]:
    """
    Seconds by name, such as SearchModels=0.3,GetModel=0.1.
    """

    def parse(value: str) -> dict[str, float]:
        found = {}
        for part in value.split(","):
            name, equals, length = part.strip().partition("=")
            if not name or not equals:
                raise ValueError(f"{part.strip()!r} is not")
            found[name] = seconds(0, 60).parse(length)
        return found

    return Kind("Method=seconds, such as SearchModels=0.3", parse)


def networks() -> Kind[tuple[IPv4Network | IPv6Network, ...]]:
    """
    Networks, or single addresses, with commas between them; none is fine.
    """

    def parse(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())

    return Kind("networks, such as 127.0.0.0/8,10.0.0.0/8", parse)


def address() -> Kind[Address]:
    """
    One host:port.
    """
    return Kind("host:port, such as 127.0.0.1:50051", Address.parse)


def addresses() -> Kind[tuple[Address, ...]]:
    """
    One or more host:port, separated by commas.
    """

    def parse(value: str) -> tuple[Address, ...]:
        found = []
        for part in value.split(","):
            try:
                found.append(Address.parse(part.strip()))
            except ValueError as error:
                raise ValueError(f'"{part.strip()}": {error}') from None
        if len(set(found)) != len(found):
            raise ValueError("an address is there twice")
        return tuple(found)

    return Kind("a comma-separated list of host:port, such as 127.0.0.1:50051,127.0.0.1:50052", parse)


def choice(members: type[E]) -> Kind[E]:
    """
    One of the values of an enumeration.
    """

    def parse(value: str) -> E:
        try:
            return members(value.lower())
        except ValueError:
            raise ValueError("") from None

    return Kind(_either([member.value for member in members]), parse)


def url(*schemes: str) -> Kind[str]:
    """
    A URL of one of *schemes*, kept as text. A password in it is refused: secrets come from files.
    """

    def parse(value: str) -> str:
        try:
            parts = urlsplit(value)
        except ValueError as error:
            raise ValueError(str(error).lower()) from None
        if parts.scheme not in schemes:
            raise ValueError("it has another scheme" if parts.scheme else "it has no scheme")
        if not (parts.netloc or parts.query):
            raise ValueError("it has no host")
        if _has_password(parts):
            raise ValueError("take the password out and put it into a file that the matching *_FILE setting names")
        if not value.isprintable() or " " in value:
            raise ValueError("it has spaces or unprintable characters")
        return value

    expects = f"a URL that starts with {_either([f'{scheme}://' for scheme in schemes])} and holds no password"
    return Kind(expects, parse, _without_userinfo)


def urls(*schemes: str) -> Kind[tuple[str, ...]]:
    """
    URLs as `url` takes them, separated by commas.
    """
    one = url(*schemes)

    def parse(value: str) -> tuple[str, ...]:
        return tuple(one.parse(part.strip()) for part in value.split(",") if part.strip())

    return Kind(f"{one.expects}; several with commas between them", parse, one.show)


def _either(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _has_password(parts: SplitResult) -> bool:
    # An @ after the host is what is left of a password with an unescaped "/", "?" or "#" in it.
    if ":" in parts.netloc.rpartition("@")[0] or "@" in parts.path + parts.query + parts.fragment:
        return True
    return any(_sounds_secret(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True))


def _sounds_secret(name: str) -> bool:
    words: Iterable[str] = ("pass", "secret", "token", "key")
    return any(word in name.lower() for word in words)


def _without_userinfo(value: str) -> str:
    # The value is wrong, so no parser can be trusted to find its password: hide all that could hold one.
    head, at, tail = value.rpartition("@")
    scheme, colon, _ = head.partition("://")
    shown = f"{scheme}{colon}…@{tail}" if at and colon else f"…@{tail}" if at else value
    before, question, _ = shown.partition("?")
    return f"{before}?…" if question else shown
