"""
Namespaces of the key-value cache: defined by configuration, each with its own limits.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from services.cache.model.permissions import ANYBODY, Principals, users
from services.chassis.errors import InvalidArgument, Violations

_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_KEY = re.compile(r"[!-~]{1,512}")
MOST_KEYS = 1000
MOST_TAGS = 16
_YEAR = 366 * 86400
_FLAGS = {"near", "gateway"}
_USERS = {"readers", "writers"}
_OPTIONAL = _FLAGS | _USERS


@dataclass(frozen=True, slots=True)
class Namespace:
    """
    A namespace and its limits.

    Args:
        id: its name.
        ttl_seconds: TTL of an entry whose writer gives none.
        most_ttl_seconds: the maximum TTL.
        most_value_bytes: maximum size of a value.
        most_bytes: the quota in Valkey, of all entries with keys and overhead.
        near: whether processes may cache entries in L1; changes by other processes are then seen with a short delay.
        gateway: whether calls through the gateway may use it.
        readers: who may read it, of the callers with the scope of the RPC; None: all of them.
        writers: who may write it, likewise. GetOrLease and Increment return values, and count as writes.
    """

    id: str
    ttl_seconds: float
    most_ttl_seconds: float
    most_value_bytes: int
    most_bytes: int
    near: bool = False
    gateway: bool = False
    readers: Principals | None = None
    writers: Principals | None = None

    def ttl(self, wanted: float | None, field: str) -> int:
        """
        The TTL of an entry in milliseconds.

        Args:
            wanted: seconds; None for the namespace's own.
            field: of the request, for the error.

        Raises:
            InvalidArgument: not positive, or too long.
        """
        if wanted is None:
            return int(self.ttl_seconds * 1000)
        if not 0.001 <= wanted <= self.most_ttl_seconds:
            raise InvalidArgument.of(field, f"must be from 1 ms to {self.most_ttl_seconds:g} s in {self.id}")
        return int(wanted * 1000)


def check_keys(keys: Iterable[str], field: str, *, most: int = MOST_KEYS, least: int = 1) -> None:
    """
    Check keys or tags.

    Raises:
        InvalidArgument: there are too few or too many, or one is not printable ASCII without spaces.
    """
    found = list(keys)
    if not least <= len(found) <= most:
        raise InvalidArgument.of(field, f"must be from {least} to {most:,}: there are {len(found):,}")
    violations = Violations()
    for index, key in enumerate(found):
        if not _KEY.fullmatch(key):
            violations.add(f"{field}[{index}]", "must be 1 to 512 characters of printable ASCII without spaces")
            if len(violations) == 10:
                break
    violations.raise_if_any()


def check_key(key: str, field: str) -> None:
    """
    Check one key.

    Raises:
        InvalidArgument: it is not printable ASCII without spaces.
    """
    if not _KEY.fullmatch(key):
        raise InvalidArgument.of(field, "must be 1 to 512 characters of printable ASCII without spaces")


def parse(text: str) -> dict[str, Namespace]:
    """
    Parse namespaces from TOML: a table for each, with the fields of `Namespace`.

    Raises:
        ValueError: it is not TOML, or a table is not a namespace; the message names the place and the fix.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from None
    return {name: _namespace(name, table) for name, table in tables.items()}


def _namespace(name: str, table: Any) -> Namespace:
    if not _ID.fullmatch(name):
        raise ValueError(f"[{name}]: a namespace is called [a-z][a-z0-9_-]{{0,62}}")
    if not isinstance(table, Mapping):
        raise ValueError(f"{name}: must be a table, [{name}]")
    known = {field.name for field in fields(Namespace)} - {"id"}
    if unknown := sorted(set(table) - known):
        raise ValueError(f"[{name}] {unknown[0]}: there is no such field; there are {', '.join(sorted(known))}")
    if missing := sorted(known - _OPTIONAL - set(table)):
        raise ValueError(f"[{name}] {missing[0]}: is missing")
    _check(name, table)
    if not table["ttl_seconds"] <= table["most_ttl_seconds"] <= _YEAR:
        raise ValueError(f"[{name}] most_ttl_seconds: must be from ttl_seconds to {_YEAR}")
    named = {field: users(table[field], f"[{name}] {field}") for field in _USERS & set(table)}
    return Namespace(name, **{**table, **named})


def _check(name: str, table: Mapping[str, Any]) -> None:
    for field, value in sorted(table.items()):
        if field in _FLAGS:
            if not isinstance(value, bool):
                raise ValueError(f"[{name}] {field}: must be true or false")
        elif field not in _USERS and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
            raise ValueError(f"[{name}] {field}: must be a whole number above 0")
    if len(_USERS & set(table)) == 1:
        # The omitted one would mean everybody, which is rarely intended.
        all_of_them = f'["{ANYBODY}"] is every caller with the scope of the RPC'
        raise ValueError(f"[{name}] readers, writers: name both of them or neither; {all_of_them}")
