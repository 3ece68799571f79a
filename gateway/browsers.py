"""
Protection against cross-site requests and DNS rebinding.

A page of any site can make its visitor's browser send requests to this gateway, also where only that browser reaches
it. The answers it may not read without CORS; but a write is done before anybody asks. So a write that comes from
another site's page (`Origin`) is refused unless the site is one of those that may call; JSON is only what says that it
is, which a page may not send to another site without asking before; and where names are known, so is only who calls it
by one of them: a page's own name may have come to lead here (DNS rebinding).
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.refusals import Refusal

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_FOLDER: Final = Path(__file__).parent
_FOREIGN = {
    "metadata_filter": {
        "matcher": {"filter": "browsers", "path": [{"key": "foreign"}], "value": {"bool_match": True}},
        "match_if_key_not_found": False,
    }
}
REFUSALS: Final = (
    Refusal(
        403,
        "ORIGIN_NOT_ALLOWED",
        "a page of another site may not write here: its origin has to be one of --cors-origin",
        (_FOREIGN,),
    ),
    Refusal(
        421,
        "HOST_NOT_ALLOWED",
        "this is not a name of this gateway: call it by one that it has, or give it this one with --host",
        becomes=403,
    ),
)


def hosts(listen: str, names: Sequence[str]) -> list[str]:
    """
    The allowed host names of a gateway; empty allows any.

    Args:
        listen: the listen address.
        names: of the options.
    """
    return [*_LOOPBACK, *(name for name in names if name not in _LOOPBACK)] if names or _is_loopback(listen) else []


def values(origins: Sequence[str], known: Sequence[str]) -> dict[str, object]:
    """
    The values of placeholders in `envoy.yaml`.

    Args:
        origins: allowed CORS origins.
        known: allowed host names; empty allows any.
    """
    allowed = ", ".join(f"[{json.dumps(origin.lower())}] = true" for origin in origins)
    return {
        "ORIGINS": list(origins),
        "PREFLIGHTS": ["/assets/", "/static/"] if origins else [],
        "VARY": "accept-encoding, origin" if origins else "accept-encoding",
        "HOSTS": list(known) or ["*"],
        "ELSEWHERE": [None] if known else [],
        "BROWSERS_LUA": (_FOLDER / "browsers.lua").read_text().replace("${ORIGINS}", f"{{{allowed}}}"),
    }


def host(text: str) -> str:
    """
    Parse a host name or IP address without a port.
    """
    if re.fullmatch(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", text):
        return text.lower()
    raise argparse.ArgumentTypeError(f"{text!r} is not a host name: yard.example, *.example, 10.0.0.1 or [::1]")


def _is_loopback(listen: str) -> bool:
    try:
        return ipaddress.ip_address(listen.strip("[]")).is_loopback
    except ValueError:
        return listen == "localhost"
