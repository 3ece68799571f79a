"""
A small OpenID Connect provider on loopback, made of Authlib's server: an implementation of the grants that is not ours
decides whether the client speaks them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlencode, urlsplit

import flask
import jwt
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749.errors import OAuth2Error
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant
from authlib.oidc.core import OpenIDCode, UserInfo
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from werkzeug.serving import WSGIRequestHandler, make_server

CLIENT_ID = "modelyard-cli"
AUDIENCE = "modelyard"
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class Client:
    """
    The one public client: PKCE, no secret, a redirect to any port of 127.0.0.1.
    """

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, uri: str) -> bool:
        return uri.startswith("http://127.0.0.1:") and uri.endswith("/callback")

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, kind: str) -> bool:
        return kind == "code"

    def check_grant_type(self, kind: str) -> bool:
        return kind in ("authorization_code", "refresh_token", _DEVICE)


@dataclass
class Issued:
    """
    A refresh token, which is valid once.
    """

    scope: str
    revoked: bool = False

    def check_client(self, _client: Client) -> bool:
        return True

    def get_scope(self) -> str:
        return self.scope


@dataclass
class Code:
    """
    An authorization code.
    """

    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass
class Device:
    """
    A login on a device.
    """

    user_code: str
    scope: str
    expired: bool = False

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_scope(self) -> str:
        return self.scope

    def get_user_code(self) -> str:
        return self.user_code

    def is_expired(self) -> bool:
        return self.expired


@dataclass
class Provider:
    """
    The provider, and what tests change about it.

    Attributes:
        issuer: its URL.
        seconds: validity of access tokens.
        subject: who is logged in at the provider's browser session.
        scopes: what the policy of the provider grants, whatever is asked for.
        refreshes: whether refresh tokens are issued.
        document: differences of the discovery document.
        id_token: differences of the ID token's claims.
        redirect: differences of the parameters of the redirect.
        interval: between polls of a device, in seconds.
        slow: how many polls are answered with slow_down.
        outage: the HTTP status of all answers; 0 for none.
        granted: whether the user approves (True), declines (False) or does nothing (None).
        calls: the number of requests by grant type, and of others by path.
        opaque: whether access tokens are no JWTs.
        login: what a gateway at the same address says about logins.
        arrived: set by the first request for a token.
        hold: requests for tokens wait for it.
        forms: the form of each token request.
    """

    issuer: str = ""
    seconds: float = 600
    subject: str = "ann"
    scopes: str = "registry.read registry.write"
    refreshes: bool = True
    document: dict[str, Any] = field(default_factory=dict)
    id_token: dict[str, Any] = field(default_factory=dict)
    redirect: dict[str, str | None] = field(default_factory=dict)
    interval: float = 0
    slow: int = 0
    outage: int = 0
    granted: bool | None = True
    login: dict[str, Any] = field(default_factory=dict)
    opaque: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    forms: list[dict[str, str]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    tokens: dict[str, Issued] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def sign(self, claims: dict[str, Any]) -> str:
        """
        A JWT.
        """
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": "one"})

    def access_token(self) -> str:
        """
        An access token for Modelyard.
        """
        if self.opaque:
            return "opaque"
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": self.subject, "iat": now, "scope": self.scopes}
        return self.sign({**claims, "exp": now + max(int(self.seconds), 1), "groups": ["vision", "Site Reliability"]})

    def jwks(self) -> dict[str, Any]:
        """
        The key set.
        """
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": "one", "alg": "ES256", "use": "sig"}]}


@contextmanager
def providing() -> Iterator[Provider]:
    """
    Run a provider.
    """
    provider = Provider()
    provider.hold.set()
    # Loopback is plain HTTP, which Authlib accepts in tests only.
    with mock.patch.dict(os.environ, {"AUTHLIB_INSECURE_TRANSPORT": "1"}), serving(_app(provider)) as provider.issuer:
        yield provider


@contextmanager
def serving(app: flask.Flask) -> Iterator[str]:
    """
    Serve an application on loopback; its URL.
    """
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    def log(self, *_args: Any) -> None:
        return


def _app(provider: Provider) -> flask.Flask:
    app = flask.Flask("provider")
    app.config["provider"] = provider

    @app.get("/.well-known/modelyard")
    def says() -> Any:
        # As a gateway does.
        return {"login": provider.login} if provider.login else flask.Response("no", 404)

    server = _server(provider, app)

    @app.before_request
    def outage() -> Any:
        provider.calls[flask.request.path] += 1
        return flask.Response("down", provider.outage) if provider.outage else None

    @app.get("/.well-known/openid-configuration")
    def document() -> Any:
        url = provider.issuer
        found = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "device_authorization_endpoint": f"{url}/device",
            "revocation_endpoint": f"{url}/revoke",
            "jwks_uri": f"{url}/jwks",
            "code_challenge_methods_supported": ["S256"],
            **provider.document,
        }
        return {name: value for name, value in found.items() if value is not None}

    @app.get("/jwks")
    def jwks() -> Any:
        return provider.jwks()

    @app.get("/authorize")
    def authorize() -> Any:
        try:
            grant = server.get_consent_grant(end_user=_user())
        except OAuth2Error as error:
            return server.handle_error_response(None, error)
        user = _user() if provider.granted else None
        answer = server.create_authorization_response(grant_user=user, grant=grant)
        return _twisted(answer, provider)

    @app.post("/device")
    def device() -> Any:
        return server.create_endpoint_response("device_authorization")

    @app.post("/revoke")
    def revoke() -> Any:
        return server.create_endpoint_response("revocation")

    @app.post("/token")
    def token() -> Any:
        form = flask.request.form.to_dict()
        provider.calls[form.get("grant_type", "")] += 1
        provider.forms.append(form)
        provider.arrived.set()
        provider.hold.wait(30)
        return server.create_token_response()

    return app


def _twisted(answer: Any, provider: Provider) -> Any:
    parts = urlsplit(answer.headers["location"])
    query = {**dict(parse_qsl(parts.query)), **provider.redirect}
    kept = {name: value for name, value in query.items() if value is not None}
    answer.headers["location"] = parts._replace(query=urlencode(kept)).geturl()
    return answer


def _provider() -> Provider:
    found: Provider = flask.current_app.config["provider"]
    return found


def _user() -> Any:
    subject = _provider().subject
    return SimpleNamespace(get_user_id=lambda: subject)


class ByCode(AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def save_authorization_code(self, code: str, request: Any) -> None:
        data = request.payload.data
        names = ("redirect_uri", "scope", "nonce", "code_challenge", "code_challenge_method")
        _provider().codes[code] = Code(**{name: data.get(name, "") for name in names})

    def query_authorization_code(self, code: str, _client: Any) -> Code | None:
        return _provider().codes.get(code)

    def delete_authorization_code(self, found: Code) -> None:
        _provider().codes = {code: each for code, each in _provider().codes.items() if each is not found}

    def authenticate_user(self, _found: Code) -> Any:
        return _user()


class ByRefresh(RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def authenticate_refresh_token(self, refresh: str) -> Issued | None:
        found = _provider().tokens.get(refresh)
        return None if found is None or found.revoked else found

    def authenticate_user(self, _found: Issued) -> Any:
        return _user()

    def revoke_old_credential(self, found: Issued) -> None:
        # As where tokens rotate: each is accepted once.
        found.revoked = _provider().refreshes


class ByDevice(DeviceCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def query_device_credential(self, code: str) -> Device | None:
        return _provider().devices.get(code)

    def query_user_grant(self, _code: str) -> tuple[Any, bool] | None:
        granted = _provider().granted
        return None if _provider().slow > 0 or granted is None else (_user(), granted)

    def should_slow_down(self, _device: Device) -> bool:
        _provider().slow -= 1
        return _provider().slow >= 0


class Begin(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = ("none",)

    @property
    def INTERVAL(self) -> float:  # noqa: N802 - Authlib's name
        return _provider().interval

    def get_verification_uri(self) -> str:
        return f"{_provider().issuer}/activate"

    def save_device_credential(self, _client: str, scope: str, data: dict[str, Any]) -> None:
        _provider().devices[data["device_code"]] = Device(data["user_code"], scope)


class Revoke(RevocationEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = ("none",)

    def query_token(self, text: str, _hint: str) -> Issued | None:
        return _provider().tokens.get(text)

    def revoke_token(self, token: Issued, _request: Any) -> None:
        token.revoked = True


class IdToken(OpenIDCode):  # type: ignore[misc]
    def exists_nonce(self, _nonce: str, _request: Any) -> bool:
        return False

    def generate_user_info(self, _user: Any, _scope: str) -> UserInfo:
        return UserInfo(sub=_provider().subject)

    def encode_id_token(self, token: dict[str, Any], request: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": _provider().issuer,
            "aud": CLIENT_ID,
            "sub": _provider().subject,
            "iat": now,
            "exp": now + 600,
            "nonce": request.authorization_code.get_nonce(),
            **_provider().id_token,
        }
        return _provider().sign({name: value for name, value in claims.items() if value is not None})


def _server(provider: Provider, app: flask.Flask) -> AuthorizationServer:
    def save(token: dict[str, Any], request: Any) -> None:
        if refresh := token.get("refresh_token"):
            scope = request.payload.scope or token.get("scope") or "openid"
            provider.tokens[refresh] = Issued(scope)

    def generate(grant_type: str, client: Any, user: Any = None, scope: Any = None, **given: Any) -> dict[str, Any]:
        found = {"token_type": "Bearer", "access_token": provider.access_token(), "expires_in": provider.seconds}
        if provider.refreshes:
            found["refresh_token"] = f"refresh-{len(provider.tokens)}-{time.monotonic_ns()}"
        return {**found, "scope": scope}

    server = AuthorizationServer(app, lambda wanted: Client() if wanted == CLIENT_ID else None, save)
    server.register_token_generator("default", generate)

    server.register_grant(ByCode, [IdToken(require_nonce=True), CodeChallenge(required=True)])
    server.register_grant(ByRefresh)
    server.register_grant(ByDevice)
    server.register_endpoint(Begin)
    server.register_endpoint(Revoke)
    return server
