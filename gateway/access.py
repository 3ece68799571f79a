"""
Authentication and authorization at the gateway: tokens by `jwt_authn`, scopes by `rbac`, both generated from the
contracts.

The services check every call again (docs/adr/0018): the gateway rejects unauthorized calls before they use resources of
a service.
"""

from __future__ import annotations

import argparse
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.browsers import REFUSALS
from gateway.bucket import SYSTEM_CA, transport
from gateway.openapi.bindings import bindings
from gateway.refusals import Refusal
from modelyard.contracts import public_scopes, services
from services.chassis.access.api_tokens import PREFIX, SCOPES
from services.chassis.access.http_fetch import may_fetch
from services.chassis.access.identity import ADMIN
from services.chassis.access.policy import ADMINISTERED, PUBLIC, AccessMode
from services.chassis.access.tokens import ALGORITHMS, LEEWAY
from services.chassis.loopback import is_loopback

BYTES: Final = ("/assets/", "/static/")
#: What `modelyard login` asks for unless something else is configured.
LOGIN_SCOPES: Final = "openid offline_access"
_BYTES_SCOPE: Final = "assets.read"
_CALLS: Final = "/modelyard."
_JSON: Final = "/v1/"
_REFLECTION: Final = "/grpc.reflection."
# These are forwarded to a service and may last: they need a token. `Check` is answered by the gateway (see envoy.yaml).
_HEALTH: Final = ("/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List")
_ENABLED: Final = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
_PROVIDER: Final = "tokens"
_JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
#: Opaque tokens, which only services can verify. The whole header counts: nothing else may come with one.
_API_TOKEN: Final = {
    "name": "authorization",
    "string_match": {"safe_regex": {"regex": rf"[Bb]earer {PREFIX}[0-9A-Za-z_]+"}},
}
#: What API tokens may have. For RPCs that need another scope, they are rejected here.
_API_TOKEN_SCOPES: Final = frozenset().union(*SCOPES.values())
#: Verifies a token without rejecting anything, so that the rate limit knows the client.
_ANYBODY: Final = [
    {
        "match": {"prefix": "/"},
        "requires": {"requires_any": {"requirements": [{"provider_name": _PROVIDER}, {"allow_missing_or_failed": {}}]}},
    }
]


@dataclass(frozen=True, slots=True)
class Login:
    """
    Where people get a token: `modelyard login` asks the gateway for it.

    Args:
        issuer: URL of the identity provider.
        client: the public client that is registered there.
        scopes: to ask for, separated by spaces.
    """

    issuer: str
    client: str
    scopes: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    Which tokens are accepted, and which calls need one.

    Args:
        mode: on, or read-public: reading models and assets needs no token.
        issuer: the required `iss`.
        audience: the required `aud`, or one of its values.
        keys: the issuer's public keys: a file, which is reloaded when it is replaced, or a URL.
        reflection: whether reflection needs no token; otherwise it is disabled.
        open_bytes: whether /assets/ and /static/ need no token even where reading does, for a CDN in front.
        refresh: the refresh interval of the keys in seconds.
        login: where people get a token; None if the gateway does not say.
    """

    mode: AccessMode
    issuer: str
    audience: str
    keys: Path | str
    reflection: bool = False
    open_bytes: bool = False
    refresh: float = 10.0
    login: Login | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the URL of the keys is invalid.
        """
        if isinstance(self.keys, str) and not re.fullmatch(r"https?://[^/@\s]+(/\S*)?", self.keys):
            raise ValueError("the URL of the keys is not http(s)://host[:port][/path]")

    @property
    def bytes_need_one(self) -> bool:
        """
        Whether /assets/ and /static/ need a token.
        """
        return self.mode is AccessMode.ON and not self.open_bytes


def values(tokens: Tokens | None, table: Mapping[str, str] | None = None) -> dict[str, object]:
    """
    The values of placeholders in `envoy.yaml`.

    Args:
        tokens: None while access control is off.
        table: the scope of each RPC by its path; by default all public RPCs of the contracts. Others are denied.
    """
    if tokens is None:
        return {
            "TOKENS": [],
            "JWKS": [],
            "JWKS_FILES": [],
            "REFUSALS": _mappers(REFUSALS),
            "PRIVATE_BYTES": False,
            "BYTES_DECIDED": [],
            "DECIDED": None,
            "OWN_HEALTH": [],
        }
    table = public_scopes() if table is None else table
    # In Linux's abstract namespace: there is no file, and it is removed with the process. Each gateway has its own.
    socket = f"@modelyard-jwks-{uuid.uuid4().hex}"
    return {
        "TOKENS": [
            {
                "provider": {_PROVIDER: _provider(tokens)},
                "anybody": _ANYBODY,
                "algorithms": _algorithms(tokens),
                "rules": _rules(tokens, table),
                "policies": _policies(tokens, table),
            }
        ],
        "JWKS": [_cluster(tokens.keys, socket)],
        "JWKS_FILES": [_listener(tokens.keys, socket)] if isinstance(tokens.keys, Path) else [],
        # The first match wins.
        "REFUSALS": _mappers((*REFUSALS, *_refusals(table))),
        "PRIVATE_BYTES": tokens.bytes_need_one,
        "BYTES_DECIDED": [] if tokens.open_bytes else [{}],
        "DECIDED": None if tokens.open_bytes else {"@type": _ENABLED, "config": {}},
        "OWN_HEALTH": [_own_health()],
    }


def _own_health() -> dict[str, object]:
    """
    What answers unauthenticated health checks.
    """
    return {
        "socket": f"@modelyard-health-{uuid.uuid4().hex}",
        "services": [{"name": name, "least": {name: {"value": 1}}} for name in ("registry", "cdn", "cache")],
        # Health checks are exempt from rate limits.
        "filters": {
            "health": {"@type": _ENABLED, "config": {}},
            **{name: {"@type": _ENABLED, "disabled": True, "is_optional": True} for name in ("client-rates", "rates")},
        },
    }


def _provider(tokens: Tokens) -> dict[str, object]:
    return {
        "issuer": tokens.issuer,
        "audiences": [tokens.audience],
        # A scheme may be written in any case (RFC 9110, section 11.1).
        "from_headers": [{"name": "authorization", "value_prefix": f"{scheme} "} for scheme in ("Bearer", "bearer")],
        # The services verify it again.
        "forward": True,
        "require_expiration": True,
        "clock_skew_seconds": LEEWAY,
        "payload_in_metadata": "claims",
        "header_in_metadata": "header",
        "failed_status_in_metadata": "failure",
        "claim_to_headers": [
            {"header_name": "x-modelyard-subject", "claim_name": "sub"},
            {"header_name": "x-modelyard-scopes", "claim_name": "scope"},
        ],
        # A token stays valid here until it expires after its key was removed; the services reject it.
        "jwt_cache_config": {"jwt_cache_size": 10_000, "jwt_max_token_size": 8192},
        **_key_source(tokens),
    }


def _key_source(tokens: Tokens) -> dict[str, object]:
    file = isinstance(tokens.keys, Path)
    uri = "http://jwks/" if file else tokens.keys
    return {
        "remote_jwks": {
            # Listeners start together, also the one that serves a file of keys: the first fetch fails, and must not
            # take long.
            "http_uri": {"uri": uri, "cluster": "jwks", "timeout": "0.1s" if file else "5s"},
            "cache_duration": f"{tokens.refresh:g}s",
            # Fetch before the first token arrives, and refresh before they expire.
            "async_fetch": {"failed_refetch_duration": "0.1s" if file else "1s"},
        }
    }


def refused(tokens: Tokens | None) -> list[dict[str, object]]:
    """
    Calls that `_rules` will reject, as header matchers that must all match: no valid token, and either an invalid one
    or a path that needs one.
    """
    if tokens is None:
        return []
    nobody = {"name": "x-modelyard-subject", "present_match": False}
    opaque = {**_API_TOKEN, "invert_match": True}
    if tokens.mode is AccessMode.READ_PUBLIC:
        return [nobody, opaque, {"name": "authorization", "present_match": True}, _begins((_CALLS, _JSON))]
    return [nobody, opaque, _begins((*_closed(tokens), _JSON))]


def _begins(prefixes: Sequence[str]) -> dict[str, object]:
    either = "|".join(map(re.escape, prefixes))
    return {"name": ":path", "string_match": {"safe_regex": {"regex": f"(?:{either}).*"}}}


def _rules(tokens: Tokens, table: Mapping[str, str]) -> list[dict[str, object]]:
    """
    The first rule that matches decides whether a token is required. Without a match none is: the landing page, health,
    preflight requests.

    Paths are those that clients send, as JSON has not been transcoded yet. `_policies` decides on the RPC that a JSON
    path turns out to be.
    """
    needed = {"provider_name": _PROVIDER}
    # A token that is sent must be valid: its bearer does not expect to be anonymous.
    welcome = {"requires_any": {"requirements": [needed, {"allow_missing": {}}]}}
    public = [path for path, scope in sorted(table.items()) if scope in PUBLIC]
    # The services verify API tokens, also those of requests for bytes (see `BYTES_DECIDED`). Whatever has no service
    # behind it that does, needs a JWT.
    rules: list[dict[str, object]] = [
        {"match": {"prefix": prefix, "headers": [_API_TOKEN]}} for prefix in (_CALLS, _JSON, *BYTES)
    ]
    if tokens.mode is AccessMode.READ_PUBLIC:
        rules += [{"match": {"path": path}, "requires": welcome} for path in public]
        rules += [{"match": match, "requires": welcome} for match in _as_json(public)]
    rules += [{"match": {"path": path}, "requires": needed} for path in _HEALTH]
    return rules + [{"match": {"prefix": prefix}, "requires": needed} for prefix in (*_closed(tokens), _JSON)]


def _as_json(paths: Sequence[str]) -> list[dict[str, object]]:
    """
    The JSON paths of RPCs, as matches of routes.
    """
    return [
        {
            "safe_regex": {"regex": binding.regex},
            "headers": [{"name": ":method", "string_match": {"exact": binding.verb.upper()}}],
        }
        for service in services()
        for method in service.methods
        if f"/{service.full_name}/{method.name}" in paths
        for binding in bindings(method)
    ]


def _closed(tokens: Tokens) -> tuple[str, ...]:
    reflection = () if tokens.reflection else (_REFLECTION,)
    return (_CALLS, *reflection, *(BYTES if tokens.bytes_need_one else ()))


def _policies(tokens: Tokens, table: Mapping[str, str]) -> dict[str, object]:
    """
    What is allowed, by the scope that allows it; everything else is denied.
    """
    found: dict[str, object] = {}
    for scope in sorted(set(table.values())):
        paths = [{"exact": path} for path in sorted(path for path, needs in table.items() if needs == scope)]
        if scope == _BYTES_SCOPE and tokens.bytes_need_one:
            paths += [{"prefix": prefix} for prefix in BYTES]
        public = tokens.mode is AccessMode.READ_PUBLIC and scope in PUBLIC
        found[scope] = {
            "permissions": [_any_of(paths)],
            "principals": [{"any": True}] if public else [_bearer_of(each) for each in _sufficient(scope)],
        }
        if scope in _API_TOKEN_SCOPES and not public:
            found[f"{scope} of an API token"] = {
                "permissions": [_any_of(paths)],
                "principals": [{"header": _API_TOKEN}],
            }
    # Of JSON it is not known yet which call it is.
    found["open"] = {
        "permissions": [{"not_rule": _any_of([{"prefix": prefix} for prefix in _closed(tokens)])}],
        "principals": [{"any": True}],
    }
    return found


def _any_of(paths: Sequence[Mapping[str, str]]) -> dict[str, object]:
    return {"or_rules": {"rules": [{"url_path": {"path": path}} for path in paths]}}


def _sufficient(scope: str) -> list[str]:
    """
    The scopes of which one suffices where *scope* is asked for.
    """
    return [scope, ADMIN] if scope.startswith(ADMINISTERED) else [scope]


def _bearer_of(scope: str) -> dict[str, object]:
    # A word among words: "registry.read" is not "registry.readable".
    regex = rf"(?:.*\s)?{re.escape(scope)}(?:\s.*)?"
    matcher = _matcher(["claims", "scope"], {"string_match": {"safe_regex": {"regex": regex}}})
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def _algorithms(tokens: Tokens) -> dict[str, object]:
    """
    What is denied: a token that is signed by another algorithm than the services take, wherever a bad one is.
    """
    there = _matcher(["header", "alg"], {"present_match": True})
    good = _matcher(["header", "alg"], {"string_match": {"safe_regex": {"regex": "|".join(ALGORITHMS)}}})
    of = [
        {"sourced_metadata": {"metadata_matcher": there}},
        {"not_id": {"sourced_metadata": {"metadata_matcher": good}}},
    ]
    checked = _any_of([{"prefix": prefix} for prefix in (*_closed(tokens), _JSON)])
    return {"others": {"permissions": [checked], "principals": [{"and_ids": {"ids": of}}]}}


def _matcher(path: Sequence[str], value: Mapping[str, object]) -> dict[str, object]:
    return {"filter": _JWT_FILTER, "path": [{"key": key} for key in path], "value": value}


def _mappers(refusals: Sequence[Refusal]) -> list[dict[str, object]]:
    return [mapper for refusal in refusals for mapper in refusal.mappers()]


def _refusals(table: Mapping[str, str]) -> list[Refusal]:
    """
    Refusals for want of a token or of a scope.
    """
    nothing = {"header_filter": {"header": {"name": "authorization", "present_match": False}}}
    wrong = "the token is not accepted: its signature, issuer and audience have to be those that are asked for"
    found = [
        Refusal(401, "TOKEN_MISSING", "this call needs a token: authorization: Bearer …", (nothing,)),
        Refusal(401, "TOKEN_EXPIRED", "the token has expired: get a new one", (_failed("Jwt is expired"),)),
        Refusal(401, "TOKEN_INVALID", wrong),
        # Envoy calls these two forbidden.
        Refusal(
            403,
            "TOKEN_INVALID",
            f"the token is not signed with {' or '.join(ALGORITHMS)}",
            (_otherwise(),),
            becomes=401,
        ),
        Refusal(403, "TOKEN_INVALID", wrong, (_failed("Audiences in Jwt are not allowed"),), becomes=401),
    ]
    for scope in sorted(set(table.values())):
        paths = [{"exact": path} for path, needs in sorted(table.items()) if needs == scope]
        if scope == _BYTES_SCOPE:
            paths += [{"prefix": prefix} for prefix in BYTES]
        called = [{"header_filter": {"header": {"name": ":path", "string_match": path}}} for path in paths]
        either = {"or_filter": {"filters": called}} if len(called) > 1 else called[0]
        found.append(Refusal(403, "SCOPE_MISSING", f"this call needs the scope {scope}", (either,), scope=scope))
    found.append(Refusal(403, "SCOPE_MISSING", "this call is not open to anybody"))
    return found


def _otherwise() -> dict[str, object]:
    # All others that Envoy knows: a filter of answers has no "not".
    others = {"string_match": {"safe_regex": {"regex": r"(?:HS|PS)\d+|[ER]S(?:384|512)|EdDSA"}}}
    matcher = _matcher(["header", "alg"], others)
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _failed(message: str) -> dict[str, object]:
    matcher = _matcher(["failure", "message"], {"string_match": {"exact": message}})
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _cluster(keys: Path | str, socket: str) -> dict[str, object]:
    if isinstance(keys, Path):
        endpoint: dict[str, object] = {"address": {"pipe": {"path": socket}}}
        return {"type": "STATIC", "endpoint": {"endpoint": endpoint}, "transport": transport("http", "", SYSTEM_CA)}
    parts = urlsplit(keys)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    endpoint = {"address": {"socket_address": {"address": host, "port_value": port}}}
    secure = transport(parts.scheme, host, SYSTEM_CA)
    return {"type": "LOGICAL_DNS", "endpoint": {"endpoint": endpoint}, "transport": secure}


def _listener(file: Path, socket: str) -> dict[str, object]:
    script = Path(__file__).with_name("jwks.lua").read_text()
    return {"socket": socket, "script": script.replace("${FILE}", json.dumps(str(file.absolute())))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    The flags of `gateway.render` for tokens.
    """
    parser.add_argument(
        "--access",
        choices=[str(mode) for mode in AccessMode],
        default=str(AccessMode.OFF),
        help="which calls need a token, as MODELYARD_ACCESS of the services; default off, only on loopback",
    )
    parser.add_argument("--jwks-file", type=Path, metavar="FILE", help="the issuer's JWKS, reloaded when replaced")
    parser.add_argument("--jwks-url", metavar="URL", help="URL of the issuer's JWKS, in place of --jwks-file")
    parser.add_argument(
        "--jwks-plain-http", action="store_true", help="allow http:// for --jwks-url beyond this machine"
    )
    parser.add_argument("--jwt-issuer", metavar="TEXT", help="required issuer (iss) of tokens")
    parser.add_argument("--jwt-audience", metavar="TEXT", help="required audience (aud) of tokens")
    parser.add_argument("--reflection-open", action="store_true", help="enable reflection, without a token")
    parser.add_argument(
        "--bytes-open", action="store_true", help="serve /assets/ and /static/ without a token, for a CDN"
    )
    parser.add_argument(
        "--login-client",
        metavar="ID",
        help="public client at the issuer for `modelyard login`, which is then told where to log in",
    )
    parser.add_argument(
        "--login-issuer", metavar="URL", help="where `modelyard login` logs in, if it is not the --jwt-issuer"
    )
    parser.add_argument(
        "--login-scopes",
        metavar="SCOPES",
        default=LOGIN_SCOPES,
        help=f"scopes that `modelyard login` asks for, separated by spaces; default {LOGIN_SCOPES}",
    )


def check(found: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: everybody in a network could do everything, and nobody has asked for that.
    """
    host, port = found.listen[0]
    if AccessMode(found.access) is AccessMode.OFF and not is_loopback(host.strip("[]")):
        raise ValueError(
            f"--access is off, and {host}:{port} is not on loopback: everybody who can connect could do everything. "
            f"Give --access on (docs/access.md), or say --access {AccessMode.OPEN}"
        )


def parse(found: argparse.Namespace) -> Tokens | None:
    """
    Raises:
        ValueError: something is missing; the message names the flag.
    """
    if not (mode := AccessMode(found.access)).asks:
        if found.login_client or found.login_issuer:
            raise ValueError(f"--login-client, --login-issuer: --access is {mode}, so that no call needs a token")
        return None
    if (found.jwks_file is None) == (found.jwks_url is None):
        raise ValueError(f"--access {mode} needs --jwks-file or --jwks-url, and not both")
    for flag, given in (("--jwt-issuer", found.jwt_issuer), ("--jwt-audience", found.jwt_audience)):
        if not given:
            raise ValueError(f"--access {mode} needs {flag}")
    keys = found.jwks_file or found.jwks_url
    tokens = Tokens(
        mode,
        found.jwt_issuer,
        found.jwt_audience,
        keys,
        found.reflection_open,
        found.bytes_open,
        login=_login(found),
    )
    if found.jwks_url and not may_fetch(found.jwks_url, plain=found.jwks_plain_http):
        raise ValueError("--jwks-url has to be https:// (or give --jwks-plain-http, too)")
    return tokens


def _login(found: argparse.Namespace) -> Login | None:
    if not found.login_client:
        if found.login_issuer:
            raise ValueError("--login-issuer needs --login-client")
        return None
    issuer: str = found.login_issuer or found.jwt_issuer
    if not re.fullmatch(r"https?://[^/@\s]+(/\S*)?", issuer):
        flag = "--login-issuer" if found.login_issuer else "--jwt-issuer"
        raise ValueError(f"{flag} is not the URL of an identity provider: give one as --login-issuer")
    return Login(issuer, found.login_client, found.login_scopes)
