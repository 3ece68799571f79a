"""
What a server says about where to log in: /.well-known/modelyard at the gateway.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from modelyard.login.errors import LoginError, ProviderError
from modelyard.login.requests import get

PATH = "/.well-known/modelyard"


def login_of(
    server: str,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """
    The issuer, client_id, audience and scopes of logins at a server, as far as it names them; empty if it does not.

    Args:
        server: its URL, from `server_of`.
        ca_file: CA bundle (PEM) that verifies its certificate; None means the system's.
        cert_file, key_file: client certificate and key (PEM).

    Raises:
        OSError: a file cannot be read, or is not PEM.
        LoginError: the server does not answer (temporary).
    """
    context = None
    if server.startswith("https:"):
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file)
    try:
        found = get(server + PATH, context).get("login")
    except ProviderError:
        # A gateway without logins, or something that is no gateway.
        return {}
    return _texts(found)


def _texts(found: Any) -> dict[str, str]:
    names = ("issuer", "client_id", "audience", "scopes")
    if not isinstance(found, dict):
        return {}
    wrong = [name for name in names if not isinstance(found.get(name, ""), str)]
    if wrong:
        raise LoginError(f"the server's {PATH} is invalid: login.{wrong[0]} is not a text")
    return {name: found[name] for name in names if found.get(name)}
