"""
The authorization code grant with PKCE (RFC 7636) in a browser on this machine, which is redirected to a port of
loopback (RFC 8252).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlencode, urlsplit

from modelyard.login.credentials import Credentials, LoginOptions
from modelyard.login.errors import LoginError
from modelyard.login.provider import Provider, check_id_token, credentials
from modelyard.login.requests import post

_PATH = "/callback"
_LIFETIME_SECONDS = 300.0
_DONE = "You can close this window and return to the terminal."
_OTHER = "This is not the login that modelyard waits for. Return to the terminal."


def log_in(
    provider: Provider,
    options: LoginOptions,
    show: Callable[[str], object],
    port: int = 0,
    lifetime: float = _LIFETIME_SECONDS,
) -> Credentials:
    """
    Log in with a browser.

    Args:
        provider: the issuer.
        options: what to ask for.
        show: opens a URL, or shows it to the user.
        port: of the redirect URI, http://127.0.0.1:{port}/callback; 0 for a free one.
        lifetime: how long to wait for the user, in seconds.

    Raises:
        LoginError: the user declined, or did not answer in time; the response is another issuer's; or the provider does
            not answer; or the port is in use.
    """
    if not provider.authorization:
        raise LoginError(f"{provider.issuer} has no authorization endpoint with PKCE (S256): log in with --device")
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    answers: queue.Queue[Mapping[str, str]] = queue.Queue()
    try:
        server = _Server(port, state, answers)
    except OSError as error:
        raise LoginError(f"port {port} of this machine cannot be used: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    redirect = f"http://127.0.0.1:{server.server_port}{_PATH}"
    try:
        show(_url(provider, options, state=state, nonce=nonce, code_challenge=_challenge(verifier), redirect=redirect))
        answer = _wait(answers, lifetime)
    finally:
        server.shutdown()
        server.server_close()
    form = {
        "grant_type": "authorization_code",
        "code": _code(answer, provider),
        "redirect_uri": redirect,
        "client_id": options.client_id,
        "code_verifier": verifier,
    }
    found = post(provider.token, form)
    check_id_token(found, options, nonce)
    return credentials(found, options)


def _url(provider: Provider, options: LoginOptions, redirect: str, **fields: str) -> str:
    query = {
        "response_type": "code",
        "client_id": options.client_id,
        "redirect_uri": redirect,
        "scope": options.scopes,
        "code_challenge_method": "S256",
        **fields,
        **({"audience": options.audience} if options.audience else {}),
    }
    joint = "&" if urlsplit(provider.authorization).query else "?"
    return f"{provider.authorization}{joint}{urlencode(query)}"


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _wait(answers: queue.Queue[Mapping[str, str]], lifetime: float) -> Mapping[str, str]:
    ends = time.monotonic() + lifetime
    while time.monotonic() < ends:
        try:
            # In short waits: on Windows, Ctrl-C does not end a wait.
            return answers.get(timeout=min(0.5, lifetime))
        except queue.Empty:
            continue
    raise LoginError("nobody logged in with the browser in time: run `modelyard login` again, or with --device")


def _code(answer: Mapping[str, str], provider: Provider) -> str:
    # Otherwise the code of one issuer could be sent to another (mix-up attack, RFC 9207).
    issuer = answer.get("iss")
    if issuer != provider.issuer and (issuer is not None or provider.names_itself):
        raise LoginError(f"the response came from another issuer than {provider.issuer}: {str(issuer)[:200]!r}")
    if error := answer.get("error"):
        if error == "access_denied":
            raise LoginError("the login was declined")
        said = ": ".join(each[:300] for each in (error, answer.get("error_description", "")) if each)
        raise LoginError(f"{provider.issuer} answers with {said}")
    if not (code := answer.get("code")):
        raise LoginError(f"{provider.issuer} answers without a code")
    return code


class _Server(ThreadingHTTPServer):
    # Each connection has a thread: browsers also open some that they do not use.
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, state: str, answers: queue.Queue[Mapping[str, str]]) -> None:
        self.state = state
        self.answers = answers
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != _PATH:
            self._answer(404, _OTHER)
            return
        answer = dict(parse_qsl(parts.query, keep_blank_values=True))
        # Any page can send a browser here: only the answer with the state of this login counts.
        if not hmac.compare_digest(answer.get("state", "").encode(), self.server.state.encode()):
            self._answer(400, _OTHER)
            return
        self._answer(200, _DONE)
        self.server.answers.put(answer)

    def _answer(self, status: int, text: str) -> None:
        data = f"<!doctype html><meta charset=utf-8><title>Modelyard</title><p>{text}</p>".encode()
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.send_header("content-security-policy", "default-src 'none'; frame-ancestors 'none'")
        self.send_header("cache-control", "no-store")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        # It would print the code.
        return
