"""
The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517) from a file or an address, kept fresh.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import jwt

from services.chassis.access.http_fetch import fetch
from services.chassis.serving.background import Work, beside

_log = logging.getLogger(__name__)

_FILE_SECONDS = 1.0
_URL_SECONDS = 60.0
# After a token with an unknown key the set is fetched early, but not more often than this: anybody can make up keys.
_EARLY_SECONDS = 5.0
_FETCH_SECONDS = 5.0
#: Seconds after which a set that could not be read again is not believed any more: a key that was withdrawn must not
#: stay good for as long as its issuer cannot be asked.
MOST_AGE = 3600.0
_RETRY = (1.0, 30.0)
_MOST_BYTES = 1 << 20


class KeysError(OSError):
    """
    There is no usable key set; the text says why.
    """


class Keys:
    """
    A key set that is read again when it changes. A set that cannot be read leaves the one before it in place.

    Args:
        file: where the set is.
        url: where the set is, if not in a file: https://, or http:// on this machine.
        plain: whether http:// may lead anywhere.
        most_age: seconds that a set is good for without having been read again.

    Attributes:
        version: grows with every new set.

    Raises:
        KeysError: the file holds no usable set.
    """

    def __init__(
        self, *, file: Path | None = None, url: str | None = None, plain: bool = False, most_age: float = MOST_AGE
    ) -> None:
        self._file = file
        self._url = url
        self._plain = plain
        self._most_age = most_age
        # What is read from a file is there at once: it is old only if it cannot be read again.
        self._work = Work("read-keys", "read the keys that sign tokens", retry=_RETRY, bound=most_age)
        self._raw = b""
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._wanted = asyncio.Event()
        self._told: list[Callable[[], object]] = []
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

    def when_changed(self, tell: Callable[[], object]) -> None:
        """
        Call *tell* in the event loop whenever the key set has been replaced.
        """
        self._told.append(tell)

    async def ping(self) -> None:
        """
        Raises:
            KeysError: no set has been read so far.
            OverdueError: the one that was read is too old.
        """
        if not self._keys:
            raise KeysError(f"no keys from {self._file or self._url}")
        await self._work.ping()

    @property
    def current(self) -> bool:
        """
        Whether there is a set, and it is not too old to be believed.
        """
        return bool(self._keys) and self._work.age <= self._most_age

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """
        Keep the set fresh for as long as the block lasts.
        """
        async with beside(self._follow()):
            yield

    async def _follow(self) -> None:
        if self._file is not None:
            await self._work.forever(self._refresh, pause=_FILE_SECONDS, first=0)
        while True:
            self._wanted.clear()
            if not await self._work.attempt(self._refresh):
                await asyncio.sleep(self._work.pause)
                continue
            await asyncio.sleep(_EARLY_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _URL_SECONDS - _EARLY_SECONDS)

    async def _refresh(self) -> None:
        read: Callable[[], bytes] = self._fetch if self._file is None else partial(_read, self._file)
        # The second bound is for what the first cannot cut, such as names that do not resolve.
        async with asyncio.timeout(3 * _FETCH_SECONDS):
            raw = await asyncio.to_thread(read)
        self._take(raw)

    def _fetch(self) -> bytes:
        try:
            return fetch(self._url or "", seconds=_FETCH_SECONDS, most=_MOST_BYTES, plain=self._plain)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise KeysError(f"{self._url}: {str(error) or type(error).__name__}") from None

    def _take(self, raw: bytes) -> None:
        if raw == self._raw:
            return
        keys = _parse(raw)
        self._raw, self._keys = raw, keys
        self.version += 1
        if self.version > 1:
            _log.info("the keys to verify tokens with have changed: %d keys", len(keys))
            for tell in self._told:
                tell()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KeysError(f"{file}: {error.strerror}") from None


def _parse(raw: bytes) -> dict[str | None, jwt.PyJWK]:
    try:
        found = jwt.PyJWKSet.from_json(raw.decode())
    # With RecursionError: JSON may be nested deeper than the parser goes.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        raise KeysError(f"this is not a key set: {error}") from None
    # The other kinds are no public keys: a shared secret here would let its readers sign.
    keys = {key.key_id: key for key in found.keys if key.key_type in {"RSA", "EC"}}
    if not keys:
        raise KeysError("there is no RSA or EC key in the set")
    return keys
