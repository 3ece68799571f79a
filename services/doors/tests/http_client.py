"""
An HTTP client that follows no redirect and sends paths as they are.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """
    A response.

    Args:
        status: of HTTP.
        headers: names in lower case.
        body: whole.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """
        The body, decoded.
        """
        return json.loads(self.body)


def ask(
    target: str, path: str, method: str = "GET", body: bytes | None = None, token: str = "", **headers: str
) -> Answer:
    """
    Send one request.

    Args:
        target: host:port.
        path: sent as it is, with its query.
        token: sent as a bearer token; empty for none.
        headers: names with `_` in place of `-`.
    """
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        given["authorization"] = f"Bearer {token}"
    with closing(http.client.HTTPConnection(target, timeout=30)) as connection:
        connection.request(method, path, body, given)
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
