"""
The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517) from a file or an address, kept fresh.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import jwt

from services.chassis.background import beside

_log = logging.getLogger(__name__)

_FILE_SECONDS = 1.0
_URL_SECONDS = 60.0
# After a token with an unknown key the set is fetched early, but not more often than this: anybody can make up keys.
_EARLY_SECONDS = 5.0
_FETCH_SECONDS = 5.0
_MOST_BYTES = 1 << 20


class KeysError(Exception):
    """
    There is no usable key set; the text says why.
    """


class Keys:
    """
    A key set that is read again when it changes. A set that cannot be read leaves the one before it in place.

    Args:
        file: where the set is.
        url: where the set is, if not in a file: http:// or https://.

    Attributes:
        version: grows with every new set.

    Raises:
        KeysError: the file holds no usable set.
    """

    def __init__(self, *, file: Path | None = None, url: str | None = None) -> None:
        self._file = file
        self._url = url
        self._raw = b""
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._wanted = asyncio.Event()
        self.version = 0
        if file is not None:
            self._take(_read(file))

    def find(self, name: str | None) -> jwt.PyJWK | None:
        """
        The key of this name (`kid`). A token that names none is signed with the only key there is.
        """
        if name is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        found = self._keys.get(name)
        if found is None:
            self._wanted.set()
        return found

    async def ping(self) -> None:
        """
        Raises:
            KeysError: no set has been read so far.
        """
        if not self._keys:
            raise KeysError(f"no keys from {self._file or self._url}")

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """
        Keep the set fresh for as long as the block lasts.
        """
        async with beside(self._follow()):
            yield

    async def _follow(self) -> None:
        read: Callable[[], bytes] = (lambda: _read(self._file)) if self._file is not None else self._fetch
        while True:
            self._wanted.clear()
            try:
                self._take(await asyncio.to_thread(read))
            except KeysError as error:
                _log.warning("the keys that sign tokens were not read: %s", error)
            if self._file is not None:
                await asyncio.sleep(_FILE_SECONDS)
                continue
            await asyncio.sleep(_EARLY_SECONDS if self._keys else 1.0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _URL_SECONDS - _EARLY_SECONDS)

    def _fetch(self) -> bytes:
        try:
            with urllib.request.urlopen(self._url or "", timeout=_FETCH_SECONDS) as answer:  # noqa: S310 - http(s) by the setting
                found: bytes = answer.read(_MOST_BYTES)
        except (OSError, ValueError) as error:
            raise KeysError(f"{self._url}: {error}") from None
        return found

    def _take(self, raw: bytes) -> None:
        if raw == self._raw:
            return
        keys = _parse(raw)
        self._raw, self._keys = raw, keys
        self.version += 1
        if self.version > 1:
            _log.info("the keys that sign tokens have changed: %d now", len(keys))


def _read(file: Path | None) -> bytes:
    try:
        return file.read_bytes() if file is not None else b""
    except OSError as error:
        raise KeysError(f"{file}: {error.strerror}") from None


def _parse(raw: bytes) -> dict[str | None, jwt.PyJWK]:
    try:
        found = jwt.PyJWKSet.from_json(raw.decode())
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise KeysError(f"this is not a key set: {error}") from None
    # The other kinds are no public keys: a shared secret here would let its readers sign.
    keys = {key.key_id: key for key in found.keys if key.key_type in {"RSA", "EC"}}
    if not keys:
        raise KeysError("there is no RSA or EC key in the set")
    return keys
