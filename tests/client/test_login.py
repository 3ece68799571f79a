"""
Logins of people, against an OpenID Connect provider on loopback: both flows, credentials, refreshing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import flask
import keyring
import keyring.backend
import pytest
from keyring.backends.fail import Keyring as NoKeyring

import modelyard
from modelyard._channel import Session
from modelyard._token import choose_token
from modelyard.cli.commands import login as commands
from modelyard.cli.commands.policies import role_of
from modelyard.login import browser, device, storage, token
from modelyard.login.credentials import Credentials, LoginOptions
from modelyard.login.errors import LoginError
from modelyard.login.provider import discover
from modelyard.login.server import login_of
from modelyard.login.token import LoginToken, find
from modelyard.registry.v1 import namespaces_pb2
from modelyard.transfer import locks
from services.chassis.access.roles import PERMISSIONS
from services.registry.tests.server import running
from tests.client.commands import Done, new_id, runner
from tests.client.oidc import AUDIENCE, CLIENT_ID, Issued, Provider, providing, serving
from tests.client.probe import Probe, probing
from tests.client.processes import ROOT, interruptible

LIST = namespaces_pb2.ListNamespacesRequest()
_VARIABLES = ("TARGET", "TOKEN", "TOKEN_FILE", "CA_FILE", "LOGIN_ISSUER", "LOGIN_CLIENT_ID", "LOGIN_AUDIENCE")


class MemoryKeyring(keyring.backend.KeyringBackend):
    """
    A keyring in this process.
    """

    priority = 5

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.secrets: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, username: str, password: str) -> None:
        self.secrets[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        return self.secrets.get((service, username))

    def delete_password(self, service: str, username: str) -> None:
        del self.secrets[service, username]


class LossyKeyring(MemoryKeyring):
    """
    A keyring that takes everything, and keeps the beginning.
    """

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password[:20])


class LockedKeyring(MemoryKeyring):
    """
    A keyring that the user does not unlock.
    """

    def set_password(self, service: str, username: str, password: str) -> None:
        raise keyring.errors.KeyringLocked("locked")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """
    The folder of credentials: empty, without a keyring, and with nothing in the environment.
    """
    for name in _VARIABLES:
        monkeypatch.delenv(f"MODELYARD_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    former = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    yield tmp_path / "modelyard"
    keyring.set_keyring(former)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """
    A provider.
    """
    with providing() as running:
        yield running


@pytest.fixture
def probe() -> Iterator[Probe]:
    """
    A server that remembers.
    """
    with probing() as running:
        yield running


def options(provider: Provider) -> LoginOptions:
    """
    The usual options.
    """
    return LoginOptions(provider.issuer, CLIENT_ID, AUDIENCE)


def keep(provider: Provider, server: str, left: float, **how: Any) -> Credentials:
    """
    Store a login whose token expires in *left* seconds, and is to be refreshed.
    """
    provider.tokens["first"] = Issued("openid")
    now = time.time()
    made = Credentials(options(provider), provider.access_token(), "first", now + left, now - 1)
    storage.save(server, made, keyring=how.get("keyring", False))
    return made


def follow(url: str) -> None:
    """
    What a browser does, in which the user is logged in at the provider.
    """

    def load() -> None:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=30).close()  # noqa: S310 - the provider on loopback

    threading.Thread(target=load).start()


def device_login(provider: Provider, *more: str, target: str = "127.0.0.1:1") -> Done:
    """
    `modelyard login` on a device.
    """
    return runner(target)("login", "--device", "--issuer", provider.issuer, "--client-id", CLIENT_ID, *more)


@pytest.mark.parametrize("flow", ["device", "browser"])
async def test_the_registry_accepts_a_login(
    database: str, provider: Provider, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After `login`, commands and clients call the registry as the user, whose token it verifies with the provider's keys;
    after `logout` they do not, and the provider no longer accepts the refresh token.
    """
    monkeypatch.setattr(commands, "_open", follow)
    access = {
        "MODELYARD_ACCESS": "on",
        "MODELYARD_JWKS_URL": f"{provider.issuer}/jwks",
        "MODELYARD_JWT_ISSUER": provider.issuer,
        "MODELYARD_JWT_AUDIENCE": AUDIENCE,
    }
    async with running(database, **access) as registry:
        run = runner(f"127.0.0.1:{registry.port}")

        def steps() -> tuple[Done, ...]:
            where = ("--issuer", provider.issuer, "--client-id", CLIENT_ID)
            names = (new_id("mine"), new_id("theirs"))
            made = (run("login", f"--{flow}", *where), run("namespaces", "create", names[0]))
            who = run("whoami", "--namespace", names[0], "--json")
            with modelyard.connect(f"127.0.0.1:{registry.port}") as yard:
                audited = run("audit", "--limit", "1", "--json")
                assert len(yard.namespaces.ListNamespaces(LIST).namespaces) > 0
            return (*made, who, audited, run("logout"), run("namespaces", "create", names[1]))

        login, create, who, _, logout, refused = await asyncio.to_thread(steps)
    assert [each.code for each in (login, create, who, logout, refused)] == [0, 0, 0, 0, 4], login.err
    assert "subject    ann" in login.out
    said = who.messages()[0]
    assert said["subject"] == "ann"
    assert said["groups"] == "vision Site Reliability"
    assert said["scopes"] == "registry.read registry.write"
    assert said["role"] == "owner"
    assert "TOKEN_MISSING" in refused.err
    assert "modelyard login" in refused.err
    assert all(issued.revoked for issued in provider.tokens.values())
    secrets = [*provider.tokens, *(form.get("code_verifier", "none") for form in provider.forms)]
    printed = "".join(done.out + done.err for done in (login, create, who, logout, refused))
    assert not [secret for secret in secrets if secret in printed]
    assert "eyJ" not in printed


def test_the_server_says_where_to_log_in(provider: Provider) -> None:
    """
    Without options the server names issuer, client, audience and scopes; options replace them.
    """
    target = provider.issuer.removeprefix("http://")
    run = runner(target)
    silent = run("login", "--device")
    assert silent.code == 2
    assert "does not say where to log in: give --issuer and --client-id" in silent.err
    provider.login = {"issuer": provider.issuer, "client_id": CLIENT_ID, "audience": "a", "scopes": "openid more"}
    assert run("login", "--device").code == 0
    found = find(provider.issuer)
    assert found is not None
    assert found._credentials.options == LoginOptions(provider.issuer, CLIENT_ID, "a", "openid more")
    assert run("login", "--device", "--scopes", "openid", "--audience", "b").code == 0
    assert storage.load(provider.issuer).options.scopes == "openid"  # type: ignore[union-attr]
    provider.login["client_id"] = 7
    assert "login.client_id is not a text" in run("login", "--device").err


def test_a_server_without_https_is_given_no_login(provider: Provider) -> None:
    """
    A login at another machine without TLS is refused, and a stored one is not used there.
    """
    done = device_login(provider, target="registry.example:80")
    assert done.code == 1
    assert "a login needs TLS" in done.err
    assert provider.calls["/device"] == 0
    keep(provider, "http://registry.example:80", 600)
    keep(provider, "https://registry.example:80", 600)
    with modelyard.connect("registry.example:80") as yard:
        assert yard._session.token is None
    with modelyard.connect("https://registry.example:80") as yard:
        assert isinstance(yard._session.token, LoginToken)


@pytest.mark.parametrize(
    ("issuer", "says"),
    [
        ("http://login.example", "the issuer has to be https://"),
        ("ftp://127.0.0.1/x", "the issuer has to be https://"),
        ("login.example", "is not a URL"),
        ("https://ann:secret@login.example", "is not a URL"),
    ],
)
def test_bad_issuers_are_refused(issuer: str, says: str) -> None:
    """
    An issuer is https://, or on loopback.
    """
    with pytest.raises(LoginError, match=says):
        discover(issuer)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"issuer": "https://evil.example"}, "is that of another one, 'https://evil.example'"),
        ({"token_endpoint": "http://evil.example/token"}, "token_endpoint of .* has to be https"),
        ({"device_authorization_endpoint": "http://evil.example"}, "device_authorization_endpoint of .* has to be"),
        ({"token_endpoint": None}, "has no token_endpoint"),
        ({"device_authorization_endpoint": None, "authorization_endpoint": None}, "no authorization endpoint"),
        ({"device_authorization_endpoint": None, "code_challenge_methods_supported": ["plain"]}, "PKCE"),
    ],
)
def test_bad_configurations_are_refused(provider: Provider, document: dict[str, Any], says: str) -> None:
    """
    A configuration of another issuer (mix-up), endpoints without TLS, and flows without PKCE are rejected before
    anything is sent there.
    """
    provider.document = document
    with pytest.raises(LoginError, match=says):
        browser.log_in(discover(provider.issuer), options(provider), follow)
    assert not provider.forms


def test_an_issuer_that_does_not_answer(provider: Provider) -> None:
    """
    An issuer that cannot be reached, or has an outage, is a temporary error with exit code 6; something else there is
    not. A redirect is not followed.
    """
    nobody = runner("127.0.0.1:1")("login", "--device", "--issuer", "http://127.0.0.1:1", "--client-id", "x")
    assert (nobody.code, "127.0.0.1:1/.well-known/openid-configuration does not answer" in nobody.err) == (6, True)
    provider.outage = 503
    assert device_login(provider).code == 6
    provider.outage = 404
    assert device_login(provider).code == 4
    provider.outage = 200
    done = device_login(provider)
    assert (done.code, "is it an OpenID Connect issuer?" in done.err) == (4, True)
    app = flask.Flask("elsewhere")
    app.add_url_rule("/<path:path>", view_func=lambda path: flask.redirect(f"{provider.issuer}/{path}"))
    with serving(app) as url, pytest.raises(LoginError, match="redirects to another URL"):
        discover(url)


def test_a_device_waits_as_it_is_told(provider: Provider) -> None:
    """
    It polls while the user has not decided, five seconds slower after each slow_down, and backs off from an outage.
    """
    provider.interval, provider.slow, provider.granted = 1, 2, None
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            provider.outage = 503
        if len(waits) == 6:
            provider.outage, provider.granted = 0, True

    prompts: list[device.Prompt] = []
    found = device.log_in(discover(provider.issuer), options(provider), prompts.append, wait)
    assert found.refresh in provider.tokens
    assert waits == [1, 6, 11, 11, 11, 22]
    assert prompts[0].code in prompts[0].complete


def test_a_device_that_is_declined_or_late(provider: Provider) -> None:
    """
    A login that the user declines, or does not approve before the provider or the code's lifetime ends it, fails.
    """
    found, told = discover(provider.issuer), options(provider)
    provider.granted = False
    with pytest.raises(LoginError, match="declined"):
        device.log_in(found, told, str, bool)
    provider.granted = None

    def expire(_seconds: float) -> None:
        for each in provider.devices.values():
            each.expired = True

    with pytest.raises(LoginError, match="nobody approved the login in time"):
        device.log_in(found, told, str, expire)
    provider.interval = 10_000
    with pytest.raises(LoginError, match="nobody approved the login in time"):
        device.log_in(found, told, str, lambda _seconds: pytest.fail("it waits beyond the lifetime of the code"))


def test_a_browser_with_another_state_is_ignored(provider: Provider) -> None:
    """
    A response with another state, or none, is answered with 400 and ends nothing: any page can cause it.
    """
    statuses: list[int] = []

    def attack(url: str) -> None:
        redirect = dict(urllib.parse.parse_qsl(url.partition("?")[2]))["redirect_uri"]
        for query in ("?code=evil&state=guessed", "?code=evil", "?error=access_denied", "/../other"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(redirect + query, timeout=10)  # noqa: S310 - loopback
            statuses.append(error.value.code)
        follow(url)

    found = browser.log_in(discover(provider.issuer), options(provider), attack)
    assert found.refresh in provider.tokens
    assert statuses == [400, 400, 400, 404]
    assert [form["code"] for form in provider.forms] != ["evil"]


@pytest.mark.parametrize(
    ("document", "redirect", "says"),
    [
        ({}, {"iss": "https://evil.example"}, "another issuer"),
        ({"authorization_response_iss_parameter_supported": True}, {}, "another issuer"),
        ({}, {"error": "access_denied"}, "declined"),
        ({}, {"error": "server_error", "error_description": "sorry"}, "server_error: sorry"),
        ({}, {"code": None}, "without a code"),
        ({}, {"code": "another"}, "invalid_grant"),
    ],
)
def test_bad_responses_to_the_browser(
    provider: Provider, document: dict[str, Any], redirect: dict[str, Any], says: str
) -> None:
    """
    A response of another issuer (RFC 9207), an error and an invalid code fail.
    """
    provider.document, provider.redirect = document, redirect
    with pytest.raises(LoginError, match=says):
        browser.log_in(discover(provider.issuer), options(provider), follow)
    assert len(provider.forms) == ("another" in redirect.values())


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://evil.example"}, "its issuer is 'https://evil.example'"),
        ({"aud": "another"}, "another client"),
        ({"aud": ["another", CLIENT_ID], "azp": "another"}, "another client"),
        ({"nonce": "another"}, "another login"),
        ({"nonce": None}, "another login"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "expired"),
    ],
)
def test_bad_id_tokens_are_refused(provider: Provider, claims: dict[str, Any], says: str) -> None:
    """
    An ID token has to be this issuer's, for this client and this login, and valid.
    """
    provider.id_token = claims
    with pytest.raises(LoginError, match=says):
        browser.log_in(discover(provider.issuer), options(provider), follow)


def test_a_browser_that_nobody_uses(provider: Provider) -> None:
    """
    The wait ends, and its port is free again; a port in use is an error.
    """
    ports: list[int] = []

    def opened(url: str) -> None:
        redirect = dict(urllib.parse.parse_qsl(url.partition("?")[2]))["redirect_uri"]
        ports.append(urllib.parse.urlsplit(redirect).port or 0)
        with pytest.raises(LoginError, match="cannot be used"):
            browser.log_in(discover(provider.issuer), options(provider), follow, ports[0])

    with pytest.raises(LoginError, match="in time"):
        browser.log_in(discover(provider.issuer), options(provider), opened, lifetime=0.01)
    assert browser.log_in(discover(provider.issuer), options(provider), follow, ports[0]).access


def test_opaque_tokens_are_refused(provider: Provider, home: Path) -> None:
    """
    A token that no service could verify is an error with a hint, and is not stored.
    """
    provider.opaque = True
    done = device_login(provider)
    assert (done.code, "need an audience (--audience)" in done.err) == (4, True)
    assert not home.exists()


def test_tokens_in_order(provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    A token that is given comes before the environment's, and that before the login's; an empty one is none.
    """
    server = "http://127.0.0.1:1"
    keep(provider, server, 600)
    (tmp_path / "token").write_text("filed")
    assert isinstance(choose_token(None, None, server), LoginToken)
    assert choose_token("", None, server) is None
    assert choose_token(None, None, "http://127.0.0.1:2") is None
    monkeypatch.setenv("MODELYARD_TOKEN_FILE", str(tmp_path / "token"))
    source = choose_token(None, None, server)
    assert source is not None
    assert not isinstance(source, str | LoginToken)
    assert source.read() == "filed"
    assert choose_token("given", None, server) == "given"


def test_threads_refresh_once(provider: Provider, probe: Probe) -> None:
    """
    A token that has expired is refreshed once for all threads of a client, whose calls carry the new one.
    """
    old = keep(provider, f"http://{probe.target}", -1)
    with modelyard.connect(probe.target) as yard:
        provider.hold.clear()
        threads = [threading.Thread(target=yard.namespaces.ListNamespaces, args=(LIST,)) for _ in range(12)]
        for each in threads:
            each.start()
        assert provider.arrived.wait(30)
        provider.hold.set()
        for each in threads:
            each.join()
    sent = {metadata["authorization"] for _, metadata, _ in probe.calls}
    kept = storage.load(f"http://{probe.target}")
    assert kept is not None
    assert sent == {f"Bearer {kept.access}"} != {f"Bearer {old.access}"}
    assert len(probe.calls) == 12
    assert provider.calls["refresh_token"] == 1
    assert kept.due > time.time()


_PROCESS = """
import sys
from modelyard.login import storage
from modelyard.login.token import find
lock = storage.try_lock
def told(file):
    held = lock(file)
    if not held:
        print("waiting", flush=True)
    return held
storage.try_lock = told
print(find(sys.argv[1]).read(), flush=True)
"""


def test_processes_refresh_once(provider: Provider) -> None:
    """
    Of two processes one refreshes, while the other waits and then uses what it got: the provider accepts each refresh
    token once.
    """
    server = "http://127.0.0.1:1"
    keep(provider, server, -1)
    provider.hold.clear()
    first = subprocess.Popen([sys.executable, "-c", _PROCESS, server], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert provider.arrived.wait(30)
    second = subprocess.Popen([sys.executable, "-c", _PROCESS, server], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting\n"
    provider.hold.set()
    texts = [each.communicate(timeout=60)[0].split()[-1] for each in (first, second)]
    kept = storage.load(server)
    assert kept is not None
    assert texts == [kept.access] * 2
    assert [form["refresh_token"] for form in provider.forms] == ["first"]


def test_a_valid_token_outlives_an_outage(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A provider that does not answer is asked again later, and not by each call: while the token is valid they use it;
    once it has expired they fail at once, with a temporary error.
    """
    server = "http://127.0.0.1:1"
    old = keep(provider, server, 30)
    provider.outage = 503
    source = find(server)
    assert source is not None
    assert [source.read() for _ in range(3)] == [old.access] * 3
    assert provider.calls["/.well-known/openid-configuration"] == 1
    later = time.time() + 31
    monkeypatch.setattr(time, "time", lambda: later)
    for _ in range(3):
        with pytest.raises(LoginError, match="HTTP 503") as error:
            source.read()
        assert error.value.temporary
        # Nothing to wait for: the event loop itself may ask.
        assert not source.due()
    assert provider.calls["/.well-known/openid-configuration"] == 2
    provider.outage = 0
    soon = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: soon)
    assert source.read() != old.access


def test_a_call_does_not_wait_while_the_token_is_valid(provider: Provider) -> None:
    """
    Calls use the valid token while another thread refreshes it.
    """
    server = "http://127.0.0.1:1"
    old = keep(provider, server, 30)
    source = find(server)
    assert source is not None
    provider.hold.clear()
    thread = threading.Thread(target=source.read)
    thread.start()
    assert provider.arrived.wait(30)
    assert source.read() == old.access
    provider.hold.set()
    thread.join()
    assert source.read() != old.access


@pytest.mark.parametrize("refreshes", [True, False])
def test_a_login_that_ended(provider: Provider, probe: Probe, refreshes: bool) -> None:
    """
    A refresh token that the provider no longer accepts, or none at all: the error says to log in again, and after that
    the same client goes on.
    """
    made = keep(provider, f"http://{probe.target}", -1)
    if refreshes:
        provider.tokens["first"].revoked = True
    else:
        storage.save(f"http://{probe.target}", Credentials(made.options, made.access, "", 0.0, 0.0), keyring=False)
    done = runner(probe.target)("namespaces", "list")
    assert done.code == 4
    assert "run `modelyard login`" in done.err
    with modelyard.connect(probe.target) as yard:
        with pytest.raises(modelyard.LoginError, match="run `modelyard login`"):
            yard.namespaces.ListNamespaces(LIST)
        assert device_login(provider, target=probe.target).code == 0
        yard.namespaces.ListNamespaces(LIST)
        assert runner(probe.target)("logout").code == 0
    assert len(probe.calls) == 1


def test_threads_fail_together(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Threads that waited while one of them asked a provider in vain fail with it, instead of asking one after the other.
    """
    server = "http://127.0.0.1:1"
    keep(provider, server, -1)
    source = find(server)
    assert source is not None
    asked, answers = threading.Event(), threading.Event()
    attempts: list[str] = []

    def outage(name: str) -> Credentials:
        attempts.append(name)
        asked.set()
        assert answers.wait(30)
        raise LoginError("nobody answers", temporary=True)

    monkeypatch.setattr(token, "refreshed", outage)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(source.read) for _ in range(4)]
        assert asked.wait(30)
        answers.set()
        for call in calls:
            with pytest.raises(LoginError, match="nobody answers"):
                call.result(30)
    assert attempts == [server]


@pytest.mark.parametrize("command", ["logout", "login"])
def test_commands_wait_for_a_refresh(provider: Provider, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """
    A refresh under way neither brings back a login that `logout` ends, whose newest refresh token is revoked, nor
    replaces one that `login` stores.
    """
    server = "http://127.0.0.1:1"
    keep(provider, server, -1)
    exchange, lock = token._exchange, locks.try_lock
    exchanged, goes_on, waits = threading.Event(), threading.Event(), threading.Event()

    def held(name: str, found: Credentials) -> Credentials:
        fresh = exchange(name, found)
        exchanged.set()
        assert goes_on.wait(30)
        return fresh

    def told(file: Any) -> bool:
        if not (locked := lock(file)):
            waits.set()
        return locked

    def run() -> Done:
        try:
            return device_login(provider) if command == "login" else runner("127.0.0.1:1")("logout")
        finally:
            waits.set()

    monkeypatch.setattr(token, "_exchange", held)
    monkeypatch.setattr(storage, "try_lock", told)
    with ThreadPoolExecutor(2) as threads:
        refresh = threads.submit(token.refreshed, server)
        assert exchanged.wait(30)
        done = threads.submit(run)
        assert waits.wait(30)
        goes_on.set()
        fresh = refresh.result(60)
        assert done.result(60).code == 0
    kept = storage.load(server)
    if command == "logout":
        assert kept is None
        assert provider.tokens[fresh.refresh].revoked
    else:
        assert kept is not None
        assert kept.refresh != fresh.refresh


def test_a_refresh_keeps_to_the_keyring(provider: Provider, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What was in the keyring before a refresh goes there after it, even if something else has written the file meanwhile.
    """
    keyring.set_keyring(MemoryKeyring())
    server = "http://127.0.0.1:1"
    keep(provider, server, -1, keyring=True)
    exchange = token._exchange

    def meanwhile(name: str, found: Credentials) -> Credentials:
        (home / "credentials.json").write_text('{"logins": {}}')
        return exchange(name, found)

    monkeypatch.setattr(token, "_exchange", meanwhile)
    fresh = token.refreshed(server)
    assert storage.load(server) == fresh
    assert fresh.refresh not in (home / "credentials.json").read_text()


def test_a_provider_that_does_not_rotate(provider: Provider) -> None:
    """
    A refresh token stays in use when the provider does not replace it.
    """
    provider.refreshes = False
    keep(provider, "http://127.0.0.1:1", -1)
    assert token.refreshed("http://127.0.0.1:1").refresh == "first"
    assert storage.load("http://127.0.0.1:1").refresh == "first"  # type: ignore[union-attr]


async def test_asyncio_refreshes_beside_the_loop(provider: Provider, probe: Probe) -> None:
    """
    The event loop runs on while a token is refreshed.
    """
    keep(provider, f"http://{probe.target}", -1)
    provider.hold.clear()
    async with modelyard.aio.connect(probe.target) as yard:
        call = asyncio.ensure_future(_list(yard))
        # Set by the loop itself: if it were blocked, the provider would wait in vain.
        await asyncio.to_thread(provider.arrived.wait, 30)
        assert not call.done()
        provider.hold.set()
        await call
    kept = storage.load(f"http://{probe.target}")
    assert kept is not None
    assert probe.calls[0][1]["authorization"] == f"Bearer {kept.access}"


async def _list(yard: Any) -> None:
    await yard.namespaces.ListNamespaces(LIST)


def test_credentials_are_for_their_owner(provider: Provider, home: Path) -> None:
    """
    The file is the owner's alone; one that others can read is refused, with the fix.
    """
    keep(provider, "http://127.0.0.1:1", 600)
    file = home / "credentials.json"
    assert [file.stat().st_mode & 0o777, home.stat().st_mode & 0o777] == [0o600, 0o700]
    file.chmod(0o640)
    with pytest.raises(LoginError, match=f"other users can read .*: chmod 600 {file}"):
        modelyard.connect("127.0.0.1:1")
    done = runner("127.0.0.1:1")("whoami")
    assert (done.code, "chmod 600" in done.err) == (4, True)
    modelyard.connect("127.0.0.1:2").close()
    keep(provider, "http://127.0.0.1:2", 600)
    assert file.stat().st_mode & 0o777 == 0o600
    assert storage.load("http://127.0.0.1:1") is not None
    assert [each.name for each in home.glob(".credentials*")] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "is damaged: delete it"), ("[]", "is damaged"), ('{"logins": {"http://127.0.0.1:1": {}}}', "login")],
)
def test_damaged_credentials(home: Path, text: str, says: str) -> None:
    """
    A damaged file is an error that says what to do; `logout` removes a damaged login.
    """
    home.mkdir()
    (home / "credentials.json").write_text(text)
    (home / "credentials.json").chmod(0o600)
    with pytest.raises(LoginError, match=says):
        modelyard.connect("127.0.0.1:1")
    if "logins" in text:
        assert runner("127.0.0.1:1")("logout").code == 0
        modelyard.connect("127.0.0.1:1").close()


def test_a_folder_that_cannot_be_written(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without a folder to store it in, a token is not refreshed: the refresh token would be lost.
    """
    keep(provider, "http://127.0.0.1:1", -1)
    source = find("http://127.0.0.1:1")
    assert source is not None
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null/none")
    with pytest.raises(LoginError, match="cannot be written"):
        source.read()
    assert provider.calls["refresh_token"] == 0


@pytest.mark.parametrize("place", ["", "/dev/null/none"])
def test_users_without_a_home(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """
    A client in a container whose user has no home directory, or none that it can enter, connects without a login.
    """

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CONFIG_HOME", place)
    monkeypatch.setattr(Path, "home", nowhere)
    modelyard.connect("127.0.0.1:1").close()


def test_the_keyring_keeps_the_tokens(provider: Provider, home: Path) -> None:
    """
    With a keyring that works, the file holds no token; refreshing and `logout` keep to the keyring. With --no-keyring
    the tokens move to the file.
    """
    backend = MemoryKeyring()
    keyring.set_keyring(backend)
    server = "http://127.0.0.1:1"
    done = device_login(provider)
    assert "stored     keyring" in done.out
    made = storage.load(server)
    assert made is not None
    assert made.refresh in backend.secrets["modelyard", server]
    text = (home / "credentials.json").read_text()
    assert made.refresh not in text
    assert made.access not in text
    storage.save(server, Credentials(made.options, made.access, made.refresh, 0.0, 0.0), keyring=True)
    assert token.refreshed(server) == storage.load(server)
    assert made.access not in backend.secrets["modelyard", server]
    assert '"access"' not in (home / "credentials.json").read_text()
    assert device_login(provider, "--no-keyring").code == 0
    assert not backend.secrets
    assert find(server) is not None
    assert device_login(provider).code == 0
    assert runner("127.0.0.1:1")("logout").code == 0
    assert not backend.secrets
    assert find(server) is None


@pytest.mark.parametrize("backend", [LossyKeyring, LockedKeyring])
def test_a_keyring_that_fails(provider: Provider, backend: Callable[[], MemoryKeyring]) -> None:
    """
    Where the keyring does not keep the tokens, the file does. A keyring that loses them later is an error.
    """
    keyring.set_keyring(backend())
    assert "credentials.json" in device_login(provider).out
    assert find("http://127.0.0.1:1") is not None
    keyring.set_keyring(MemoryKeyring())
    assert device_login(provider).code == 0
    keyring.set_keyring(MemoryKeyring())
    with pytest.raises(LoginError, match="no longer in the keyring: run `modelyard login` again"):
        find("http://127.0.0.1:1")


def test_tokens_do_not_show(provider: Provider) -> None:
    """
    No object that holds a token shows it.
    """
    made = keep(provider, "http://127.0.0.1:1", 600)
    source = find("http://127.0.0.1:1")
    shown = repr([made, source, Session(made.access, None), Session(source, None)])
    assert made.access not in shown
    assert made.refresh not in shown


def test_ctrl_c_leaves_nothing(provider: Provider, home: Path) -> None:
    """
    Ctrl-C while a device waits for its user ends with 130, without credentials.
    """
    provider.granted = None
    where = ("--target", "127.0.0.1:1", "--issuer", provider.issuer, "--client-id", CLIENT_ID)
    process = interruptible("login", "--device", *where)
    assert provider.arrived.wait(30)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not home.exists()


def test_ctrl_c_loses_no_refresh_token(provider: Provider) -> None:
    """
    Ctrl-C while the provider replaces the refresh token takes effect when the new one is stored.
    """
    keep(provider, "http://127.0.0.1:1", -1)
    provider.hold.clear()
    process = interruptible("namespaces", "list", "--target", "127.0.0.1:1")
    assert provider.arrived.wait(30)
    process.send_signal(signal.SIGINT)
    # Time to end too early; it has not.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    provider.hold.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = storage.load("http://127.0.0.1:1")
    assert kept is not None
    assert not provider.tokens[kept.refresh].revoked


def test_whoami_without_a_login() -> None:
    """
    Without a token it says so, and how to get one; an opaque token is called that.
    """
    run = runner("127.0.0.1:1")
    assert "run `modelyard login`" in run("whoami").out
    assert json.loads(run("whoami", "--json").out)["subject"] == ""


def test_roles_are_told_by_their_permissions() -> None:
    """
    The role that `whoami` shows is the least one with these permissions, as the services grant them.
    """
    for role in {*PERMISSIONS.values()}:
        granted = [name for name, least in PERMISSIONS.items() if least <= role]
        assert role_of(granted) == role.name.lower()
    assert role_of([]) == "none"


def test_a_server_that_is_no_gateway(provider: Provider) -> None:
    """
    A server that answers with something else names no login.
    """
    assert login_of(provider.issuer) == {}
