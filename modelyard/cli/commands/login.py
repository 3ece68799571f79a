"""
`modelyard login`, `modelyard logout`, `modelyard whoami`
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any

from modelyard._channel import connection
from modelyard._target import server_of
from modelyard._token import choose_token
from modelyard.cli.commands.policies import role_of
from modelyard.cli.errors import RefusedError
from modelyard.cli.names import namespace_name
from modelyard.cli.output import Output, plain
from modelyard.cli.parsing import Group, command, usage_error
from modelyard.client import Client
from modelyard.registry.v1 import policies_pb2

_ENVIRONMENT = {
    "issuer": "MODELYARD_LOGIN_ISSUER",
    "client_id": "MODELYARD_LOGIN_CLIENT_ID",
    "audience": "MODELYARD_LOGIN_AUDIENCE",
    "scopes": "MODELYARD_LOGIN_SCOPES",
}


def add(group: Group) -> None:
    """
    Register the commands.
    """
    parser = command(group, "login", login, "log in at the identity provider of a server (OpenID Connect)")
    # They work with the credentials of the login itself.
    parser.set_defaults(token="", token_file=None)
    told = "default: what the server says"
    parser.add_argument("--issuer", metavar="URL", help=f"identity provider (${_ENVIRONMENT['issuer']}; {told})")
    parser.add_argument("--client-id", metavar="ID", help=f"client registered there (${_ENVIRONMENT['client_id']})")
    parser.add_argument(
        "--audience",
        metavar="TEXT",
        help=f"audience to ask for, if the provider needs one (${_ENVIRONMENT['audience']})",
    )
    parser.add_argument(
        "--scopes", metavar="SCOPES", help=f"scopes to ask for, separated by spaces (${_ENVIRONMENT['scopes']})"
    )
    flow = parser.add_mutually_exclusive_group()
    flow.add_argument("--browser", action="store_true", help="log in with the browser of this machine")
    flow.add_argument("--device", action="store_true", help="log in with a code in the browser of any device")
    parser.add_argument(
        "--callback-port", type=_port, default=0, metavar="PORT", help="port of the browser's redirect URI (any)"
    )
    parser.add_argument("--no-keyring", action="store_true", help="keep the credentials in a file, not in the keyring")
    parser = command(group, "logout", logout, "delete the credentials of a server, and revoke them at the provider")
    parser.set_defaults(token="", token_file=None)
    parser = command(group, "whoami", whoami, "show subject, groups, scopes and expiry of your token")
    parser.add_argument("--namespace", metavar="NAMESPACE", help="show your role and permissions there, too")


def login(_yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Log in.
    """
    from modelyard.login import browser, device, storage
    from modelyard.login.provider import claims, discover

    server = _server(args)
    options = _options(args, server)
    provider = discover(options.issuer)
    output.note(f"logging in to {server} at {options.issuer}")
    if args.browser or (not args.device and _has_browser() and provider.authorization) or not provider.device:
        found = browser.log_in(provider, options, _open, args.callback_port)
    else:
        found = device.log_in(provider, options, _show)
    # A refresh of the former login that is under way must not replace this one.
    with storage.refreshing(server):
        kept = storage.save(server, found, keyring=not args.no_keyring)
    said = claims(found.access) or {}
    facts = {
        "server": server,
        "subject": str(said.get("sub", "")),
        "expires": _time(found.expires),
        "refreshed": "yes" if found.refresh else "no: there is no refresh token",
        "stored": "keyring" if kept else str(storage.folder() / "credentials.json"),
    }
    output.facts(facts)


def logout(_yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Log out.
    """
    from modelyard.login import storage
    from modelyard.login.errors import LoginError
    from modelyard.login.token import revoke

    server = _server(args)
    # A refresh that is under way would store the login again, and only its refresh token could still be revoked.
    with storage.refreshing(server):
        try:
            found = storage.load(server)
        except LoginError:
            # What cannot be used can still be deleted.
            found = None
        if not storage.remove(server):
            output.note(f"you are not logged in to {server}")
            return
        if found is not None and not revoke(found):
            output.note("the provider did not revoke the login: it ends there when it expires")
    output.note(f"logged out of {server}")


def whoami(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show whose token calls carry.
    """
    from modelyard.login.provider import claims

    address, credentials = connection(args.target, None, args.ca_file, args.cert_file, args.key_file)
    source = choose_token(args.token, args.token_file, server_of(address, secure=credentials is not None))
    token = source if source is None or isinstance(source, str) else source.read()
    said: dict[str, Any] = {} if token is None else claims(token) or {}
    if token is None:
        kind = "none: run `modelyard login`, or give --token-file"
    else:
        kind = "JWT" if said else "opaque: only the server knows whose it is"
    facts = {
        "server": args.target,
        "token": kind,
        "subject": str(said.get("sub", "")),
        "groups": " ".join(_texts(said.get("groups"))),
        "scopes": " ".join(_texts(said.get("scope"))),
        "issuer": str(said.get("iss", "")),
        "expires": _time(said.get("exp")),
    }
    if args.namespace:
        resource = namespace_name(args.namespace)
        request = policies_pb2.TestPermissionsRequest(resource=resource)
        permissions = sorted(yard.policies.TestPermissions(request).permissions)
        facts |= {"role": role_of(permissions), "permissions": " ".join(permissions) or "none"}
    output.facts(facts)


def _server(args: argparse.Namespace) -> str:
    address, credentials = connection(args.target, None, args.ca_file, args.cert_file, args.key_file)
    if not (server := server_of(address, secure=credentials is not None)):
        raise RefusedError(
            f"a login needs TLS, or a server on this machine: {args.target} would get its token over plain text. Give "
            "an https:// target, or --ca-file"
        )
    return server


def _options(args: argparse.Namespace, server: str) -> Any:
    from modelyard.login.credentials import DEFAULT_SCOPES, LoginOptions
    from modelyard.login.server import login_of

    given = {name: getattr(args, name) or os.environ.get(variable) or "" for name, variable in _ENVIRONMENT.items()}
    told: dict[str, str] = {}
    if not (given["issuer"] and given["client_id"]):
        told = login_of(server, args.ca_file, args.cert_file, args.key_file)
    if given["issuer"] and given["issuer"] != told.get("issuer"):
        # Client, audience and scopes of another issuer mean nothing there.
        told = {}
    found = {name: given[name] or told.get(name, "") for name in _ENVIRONMENT}
    if missing := [f"--{name.replace('_', '-')}" for name in ("issuer", "client_id") if not found[name]]:
        usage_error(args, f"{server} does not say where to log in: give {' and '.join(missing)}")
    return LoginOptions(**{**found, "scopes": found["scopes"] or DEFAULT_SCOPES})


def _has_browser() -> bool:
    """
    Whether a browser on this machine is in front of the user.
    """
    import webbrowser

    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY") or not sys.stderr.isatty():
        return False
    if sys.platform not in ("win32", "darwin") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _open(url: str) -> None:
    import webbrowser

    say = partial(print, file=sys.stderr, flush=True)
    say(f"log in with your browser: {plain(url)}")
    # Without a display, webbrowser would start a browser for terminals, which takes over this one.
    if _has_browser():
        webbrowser.open(url)


def _show(prompt: Any) -> None:
    # Also with --quiet: nobody can go on without it.
    print(f"open {plain(prompt.url)} and enter the code {plain(prompt.code)}", file=sys.stderr, flush=True)
    if prompt.complete:
        print(f"or open {plain(prompt.complete)}", file=sys.stderr, flush=True)


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else str(value or "").split()


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _time(seconds: object) -> str:
    if not isinstance(seconds, int | float) or not 0 < seconds < 253_402_300_800:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
