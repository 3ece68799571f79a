"""
Requests to the identity provider: JSON over https, or over http on loopback.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

from modelyard.login.errors import LoginError, ProviderError

_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 1 << 20
_MOST_TEXT = 300


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # A redirect would send codes and refresh tokens to a host that nobody chose.
    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


def check_url(url: object, what: str) -> str:
    """
    A URL to which secrets may be sent.

    Args:
        url: the URL.
        what: its name, for the error.

    Raises:
        LoginError: it is neither https:// nor http:// on loopback.
    """
    parts = None
    if isinstance(url, str) and re.fullmatch(r"[!-~]+", url):
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises ValueError for an invalid port
        except ValueError:
            parts = None
    if not isinstance(url, str) or parts is None or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise LoginError(f"{what} is not a URL such as https://login.example: {str(url)[:_MOST_TEXT]!r}")
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return url
    raise LoginError(f"{what} has to be https:// (http:// only on loopback): {url[:_MOST_TEXT]!r}")


def get(url: str, context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """
    The JSON object at a URL.

    Args:
        url: as `check_url` returned it.
        context: TLS settings; default: the system's CA bundle.

    Raises:
        LoginError: there is no answer (temporary), or it is not a JSON object.
        ProviderError: the request was rejected.
    """
    return _send(urllib.request.Request(url, headers=_HEADERS), context)  # noqa: S310 - checked by `check_url`


def post(url: str, form: Mapping[str, str]) -> dict[str, Any]:
    """
    The JSON object that a form's endpoint answers with.

    Raises:
        LoginError: there is no answer (temporary), or it is not a JSON object.
        ProviderError: the request was rejected.
    """
    data = urlencode({name: value for name, value in form.items() if value}).encode()
    return _send(urllib.request.Request(url, data, _HEADERS), None)  # noqa: S310 - checked by `check_url`


def post_only(url: str, form: Mapping[str, str]) -> None:
    """
    As `post`, for an endpoint that answers without content.

    Raises:
        LoginError: there is no answer (temporary).
        ProviderError: the request was rejected.
    """
    data = urlencode(form).encode()
    _open(urllib.request.Request(url, data, _HEADERS), None)  # noqa: S310 - checked by `check_url`


_HEADERS = {"accept": "application/json", "user-agent": "modelyard"}


def _send(request: urllib.request.Request, context: ssl.SSLContext | None) -> dict[str, Any]:
    where, data = request.full_url.partition("?")[0], _open(request, context)
    try:
        # A JSON object; other answers, such as a portal's login page, are errors.
        found = json.loads(data) if len(data) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LoginError(f"{where} does not answer with a JSON object: is it an OpenID Connect issuer?")
    return found


def _open(request: urllib.request.Request, context: ssl.SSLContext | None) -> bytes:
    host = urlsplit(request.full_url).hostname or ""
    # Loopback is never reached through a proxy, as in gRPC.
    proxies = [urllib.request.ProxyHandler({})] if _is_loopback(host) else []
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context), *proxies)
    where = request.full_url.partition("?")[0]
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return bytes(answer.read(_MOST_BYTES + 1))
    except urllib.error.HTTPError as error:
        with error:
            _reject(error, where)
    except (OSError, HTTPException) as error:
        # The request is not part of the exception's text or of its arguments.
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise LoginError(f"{where} does not answer: {str(cause)[:_MOST_TEXT]}", temporary=True) from None


def _reject(error: urllib.error.HTTPError, where: str) -> NoReturn:
    status = error.code
    if status in (408, 425, 429) or status >= 500:
        raise LoginError(f"{where} answers with HTTP {status}", temporary=True) from None
    if 300 <= status < 400:
        raise LoginError(f"{where} redirects to another URL, which is not followed: give the final one") from None
    try:
        found = json.loads(error.read(_MOST_BYTES))
    except (OSError, HTTPException, ValueError, RecursionError):
        found = None
    code, text = ("", "")
    if isinstance(found, dict):
        code, text = (str(found.get(name) or "")[:_MOST_TEXT] for name in ("error", "error_description"))
    said = ": ".join(each for each in (code, text) if each)
    raise ProviderError(f"{where} answers with {said or f'HTTP {status}'}", code) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
