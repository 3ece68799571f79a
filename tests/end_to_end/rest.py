"""
The API as JSON over HTTP, through the gateway.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from embedded.stack import Stack


def call(stack: Stack, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
    """
    The status and the answer of a request.
    """
    url = f"http://{stack.gateway}/v1/{path}"
    if query:
        url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
    data = json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)  # noqa: S310 - our own gateway
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own gateway
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def done(stack: Stack, method: str, path: str, body: Any = None, **query: str) -> Any:
    """
    The answer of a request that is done.
    """
    status, answer = call(stack, method, path, body, **query)
    assert status == 200, (method, path, answer)
    return answer
