"""
The keys that sign tokens, while the address that they come from answers oddly, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.chassis.access import Keys, Verifier
from services.chassis.access.http_fetch import fetch, may_fetch
from services.chassis.errors import Unauthenticated, Unavailable
from services.chassis.serving.background import standings
from services.chassis.serving.health import Health
from services.chassis.settings import CommonSettings, SettingsError, load
from services.chassis.tests.in_process import eventually
from tests.tokens import AUDIENCE, ISSUER, Issuer, settings

_ODD = {
    "a chunked body that is cut": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100\r\n{",
    "no status line": b"nonsense\r\n\r\n",
    "JSON that is too deep": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000,
    "a text that is no JSON": b"HTTP/1.1 200 OK\r\n\r\n<html>",
    "a set without a key": b'HTTP/1.1 200 OK\r\n\r\n{"keys": []}',
    "another address that is not https": b"HTTP/1.1 302 Found\r\nlocation: http://issuer.example/\r\n\r\n",
    "nothing": b"",
}


class Address:
    """
    Where a key set is fetched.

    Args:
        file: the set.

    Attributes:
        odd: what is answered in its place, if anything.
        drips: answer with a byte now and then, for ever.
        asked: how often it was asked.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.odd: bytes | None = None
        self.drips = False
        self.asked = 0
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """
        Answer one request.
        """
        self.asked += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.drips:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while self.drips:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            else:
                whole = b"HTTP/1.1 200 OK\r\n\r\n" + self._file.read_bytes()
                writer.write(whole if self.odd is None else self.odd)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def address(file: Path) -> AsyncIterator[Address]:
    """
    One that answers on a port of its own.
    """
    found = Address(file)
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    async with server:
        yield found
        found.drips = False


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Keys are read again at once, and waited for only a moment.
    """
    for name, seconds in {
        "_EARLY_SECONDS": 0.01,
        "_URL_SECONDS": 0.02,
        "_FETCH_SECONDS": 0.2,
        "_RETRY": (0.01, 0.05),
    }.items():
        monkeypatch.setattr(f"services.chassis.access.keys.{name}", seconds)


@pytest.mark.parametrize("odd", _ODD.values(), ids=_ODD)
async def test_an_odd_answer_does_not_end_the_refresh(issuer: Issuer, odd: bytes) -> None:
    """
    Whatever the address answered, a key that is new afterwards is taken, and one that was withdrawn is refused. The
    failures are counted.
    """
    before = issuer.mint("admin")
    async with address(issuer.file) as at:
        keys = Keys(url=at.url)
        verifier = Verifier(keys, ISSUER, AUDIENCE)
        async with keys.following():
            await eventually(lambda: keys.version == 1)
            failures = standings()["read-keys"].failures
            at.odd = odd
            await eventually(lambda: standings()["read-keys"].failures >= failures + 2)
            assert verifier.verify(before).subject == "ann"
            fresh = Issuer(issuer.file, "two")
            at.odd = None
            await eventually(lambda: keys.version == 2)
            assert verifier.verify(fresh.mint("admin")).subject == "ann"
            with pytest.raises(Unauthenticated):
                verifier.verify(before)


async def test_an_answer_that_drips_does_not_hold_the_refresh(issuer: Issuer) -> None:
    """
    The time-out is for the whole answer: afterwards the address is asked again.
    """
    async with address(issuer.file) as at:
        at.drips = True
        keys = Keys(url=at.url)
        async with keys.following():
            await eventually(lambda: at.asked >= 2)
            at.drips = False
            await eventually(lambda: keys.version == 1)


async def test_keys_that_are_too_old_are_not_believed(issuer: Issuer) -> None:
    """
    While the address cannot be read for longer than keys may be old, the process is alive but not ready and tokens are
    UNAVAILABLE; when it can be read again, both are well.
    """
    token = issuer.mint("admin")
    async with address(issuer.file) as at:
        keys = Keys(url=at.url, most_age=0.5)
        verifier, health = Verifier(keys, ISSUER, AUDIENCE), Health()
        health.depends_on("token-keys", keys.ping, interval=0.02)
        async with keys.following():
            await eventually(lambda: keys.current)
            async with health.watch_dependencies():
                await eventually(lambda: not health.not_ready())
                at.odd = b""
                await eventually(health.not_ready)
                assert (health.not_alive(), health.down()) == ("", ["token-keys"])
                with pytest.raises(Unavailable, match="keys"):
                    verifier.verify(token)
                at.odd = None
                await eventually(lambda: not health.not_ready())
                assert verifier.verify(token).subject == "ann"


def test_keys_come_by_https_or_from_this_machine(issuer: Issuer) -> None:
    """
    Keys that anybody on the way could change are taken only where that was asked for, in so many words.
    """
    assert [
        may_fetch(f"http://{host}/", plain=False) for host in ("127.0.0.1:1", "localhost", "[::1]", "a.example")
    ] == [
        True,
        True,
        True,
        False,
    ]
    values = {**settings(issuer), "MODELYARD_JWKS_FILE": "", "MODELYARD_JWKS_URL": "http://issuer.example/keys"}
    with pytest.raises(SettingsError, match="MODELYARD_JWKS_URL has to be https://"):
        load(CommonSettings, values).keys()
    assert load(CommonSettings, {**values, "MODELYARD_JWKS_PLAIN_HTTP": "true"}).keys() is not None


async def test_a_document_that_is_too_large_is_refused(issuer: Issuer) -> None:
    """
    No half of it is taken for the whole.
    """
    async with address(issuer.file) as at:
        with pytest.raises(ValueError, match="larger than 10 bytes"):
            await asyncio.to_thread(fetch, at.url, seconds=5, most=10)
