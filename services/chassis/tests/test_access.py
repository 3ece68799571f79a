"""
Who is let in, on a real server over a real channel.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest

from services.chassis.access import Access, AccessMode, Keys, ServiceToken, Verifier
from services.chassis.interceptors import AccessInterceptor, identity, standard
from services.chassis.observability.metrics import CallMetrics
from services.chassis.serving.context import Context
from services.chassis.settings import CommonSettings, SettingsError, load
from services.chassis.tests.in_process import details, eventually, failure, path, unary, wired
from tests.tokens import AUDIENCE, ISSUER, Issuer, settings

SCOPES = {path("Read"): "registry.read", path("Write"): "registry.write"}


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


@asynccontextmanager
async def guarded(keys: Keys, mode: AccessMode = AccessMode.ON, calls: CallMetrics | None = None) -> AsyncIterator[Any]:
    """
    A channel to a server whose methods answer with the caller's subject.
    """

    async def who(_request: bytes, _context: Context) -> bytes:
        known = identity()
        return b"" if known is None else known.subject.encode()

    interceptor = AccessInterceptor(Access(mode, Verifier(keys, ISSUER, AUDIENCE)), SCOPES)
    methods: dict[str, Any] = {"Read": unary(who), "Write": unary(who), "Forgotten": unary(who)}
    async with wired(interceptors=standard(access=interceptor), calls=calls, **methods) as channel:
        yield channel


def ask(channel: Any, method: str, token: str | None) -> Any:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    return channel.unary_unary(path(method))(b"", metadata=metadata)


async def reason(call: Any) -> tuple[grpc.StatusCode, str]:
    error = await failure(call)
    return error.code(), details(error)["ErrorInfo"].reason


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_a_good_token_is_let_in(issuer: Issuer, algorithm: str) -> None:
    """
    The servicer learns whose token it is, of either algorithm.
    """
    async with guarded(Keys(file=issuer.file)) as channel:
        assert await ask(channel, "Read", issuer.mint("registry.read", algorithm)) == b"ann"


async def test_a_bad_token_is_refused_with_the_reason(issuer: Issuer) -> None:
    """
    Missing, expired and otherwise bad tokens are told apart.
    """
    good = issuer.mint("registry.read")
    async with guarded(Keys(file=issuer.file)) as channel:
        assert (await reason(ask(channel, "Read", None)))[1] == "TOKEN_MISSING"
        assert (await reason(ask(channel, "Read", issuer.mint("registry.read", exp=1))))[1] == "TOKEN_EXPIRED"
        bad = [
            issuer.mint("registry.read", aud="another"),
            issuer.mint("registry.read", iss="https://another.example"),
            issuer.mint(["registry.read"]),
            good[:-8] + "AAAAAAAA",
            "nonsense",
        ]
        for token in bad:
            assert await reason(ask(channel, "Read", token)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_who_is_refused_is_counted_and_logged(issuer: Issuer, lines: io.StringIO) -> None:
    """
    A call without a valid token, or without the scope, is logged with the client's address, and without the token.
    """
    calls, denied = CallMetrics(), issuer.mint("registry.read")
    client = ("x-modelyard-client", "203.0.113.9")
    async with guarded(Keys(file=issuer.file), calls=calls) as channel:
        do = channel.unary_unary(path("Write"))
        await failure(do(b"", metadata=(client,)))
        await failure(do(b"", metadata=(client, ("authorization", f"Bearer {denied}"))))
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    found = [each for each in records if each["logger"] == "services.chassis.observability.call_recorder"]
    assert [(each["code"], each["level"], each["client"]) for each in found] == [
        ("UNAUTHENTICATED", "INFO", "203.0.113.9"),
        ("PERMISSION_DENIED", "INFO", "203.0.113.9"),
    ]
    assert denied not in lines.getvalue()
    (handled,) = [each for each in calls.collect() if each.name == "grpc_server_handled"]
    counted = {
        each.labels["grpc_code"]: each.value for each in handled.samples if each.labels["grpc_method"] == "Write"
    }
    assert (counted["Unauthenticated"], counted["PermissionDenied"]) == (1, 1)


async def test_the_scope_that_is_missing_is_named(issuer: Issuer) -> None:
    """
    PERMISSION_DENIED says which scope the call needs.
    """
    async with guarded(Keys(file=issuer.file)) as channel:
        error = await failure(ask(channel, "Write", issuer.mint("registry.read")))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert dict(details(error)["ErrorInfo"].metadata) == {"scope": "registry.write"}


async def test_a_method_without_a_scope_is_denied(issuer: Issuer) -> None:
    """
    Nobody may call what no scope was named for.
    """
    async with guarded(Keys(file=issuer.file)) as channel:
        call = ask(channel, "Forgotten", issuer.mint("admin registry.read registry.write"))
        assert await reason(call) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_reading_may_be_public(issuer: Issuer) -> None:
    """
    Then reads need no token, a bad one is refused all the same, and writes need one.
    """
    async with guarded(Keys(file=issuer.file), AccessMode.READ_PUBLIC) as channel:
        assert await ask(channel, "Read", None) == b""
        assert (await reason(ask(channel, "Read", "nonsense")))[1] == "TOKEN_INVALID"
        assert (await reason(ask(channel, "Write", None)))[1] == "TOKEN_MISSING"


async def test_keys_change_without_a_restart(issuer: Issuer) -> None:
    """
    After a rotation new tokens are taken and old ones are not, remembered or not; a broken file changes nothing.
    """
    keys = Keys(file=issuer.file)
    old = issuer.mint("registry.read")
    async with guarded(keys) as channel, keys.following():
        assert await ask(channel, "Read", old) == b"ann"
        fresh = Issuer(issuer.file, "two")
        await eventually(lambda: keys.version == 2)
        assert await ask(channel, "Read", fresh.mint("registry.read")) == b"ann"
        assert (await reason(ask(channel, "Read", old)))[1] == "TOKEN_INVALID"
        issuer.file.write_text("{")
        assert await ask(channel, "Read", fresh.mint("registry.read")) == b"ann"


async def test_keys_that_were_never_fetched_are_no_fault_of_the_caller(issuer: Issuer) -> None:
    """
    Before the first set has come, calls are UNAVAILABLE and may be retried.
    """
    keys = Keys(url="http://127.0.0.1:1/jwks")
    async with guarded(keys) as channel:
        call = ask(channel, "Read", issuer.mint("registry.read"))
        assert await reason(call) == (grpc.StatusCode.UNAVAILABLE, "TOKEN_KEYS_UNAVAILABLE")


async def test_keys_are_fetched_from_an_address(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A set at an address is as good as one in a file. A token with a key that is not in it has the set fetched again, so
    that a new key counts soon, and the old one no longer.
    """
    monkeypatch.setattr("services.chassis.access.keys._EARLY_SECONDS", 0.05)
    handler = partial(SimpleHTTPRequestHandler, directory=str(issuer.file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        keys = Keys(url=f"http://127.0.0.1:{server.server_port}/{issuer.file.name}")
        async with guarded(keys) as channel, keys.following():
            await eventually(lambda: keys.version)
            old = issuer.mint("registry.read")
            assert await ask(channel, "Read", old) == b"ann"
            fresh = Issuer(issuer.file, "two")
            unknown = ask(channel, "Read", fresh.mint("registry.read"))
            assert await reason(unknown) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
            await eventually(lambda: keys.version == 2)
            assert await ask(channel, "Read", fresh.mint("registry.read")) == b"ann"
            assert await reason(ask(channel, "Read", old)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        server.shutdown()


def test_access_control_needs_all_its_settings() -> None:
    """
    Half of the settings would let the wrong callers in: the service does not start.
    """
    with pytest.raises(SettingsError) as wrong:
        load(CommonSettings, {"MODELYARD_ACCESS": "on"}).keys()
    for name in ("MODELYARD_JWKS_FILE", "MODELYARD_JWT_ISSUER", "MODELYARD_JWT_AUDIENCE"):
        assert name in str(wrong.value)


def test_settings_make_a_verifier(issuer: Issuer) -> None:
    """
    With all of them, tokens of the issuer are good.
    """
    found = load(CommonSettings, settings(issuer))
    keys = found.keys()
    assert keys is not None
    assert found.access_to(keys).verifier.verify(issuer.mint("admin")).scopes == {"admin"}


def test_a_services_own_token_is_read_again(tmp_path: Path) -> None:
    """
    Whoever renews it replaces the file.
    """
    file = tmp_path / "token"
    file.write_text("one\n")
    own = ServiceToken(str(file))
    assert own.metadata() == (("authorization", "Bearer one"),)
    file.write_text("another\n")
    assert own.metadata() == (("authorization", "Bearer another"),)
    assert ServiceToken().metadata() == ()
