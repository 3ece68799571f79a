"""
The device authorization grant (RFC 8628): the user approves the login in a browser on any device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from modelyard.login.credentials import Credentials, LoginOptions
from modelyard.login.errors import LoginError, ProviderError
from modelyard.login.provider import Provider, check_id_token, credentials
from modelyard.login.requests import post

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_INTERVAL_SECONDS = 5.0
_LIFETIME_SECONDS = 1800.0
_MOST_INTERVAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    What the user is asked to do.

    Args:
        url: to open.
        code: to enter there.
        complete: the URL with the code in it; empty if there is none.
    """

    url: str
    code: str
    complete: str


def log_in(
    provider: Provider,
    options: LoginOptions,
    show: Callable[[Prompt], object],
    wait: Callable[[float], object] = time.sleep,
) -> Credentials:
    """
    Log in on a device.

    Args:
        provider: the issuer.
        options: what to ask for.
        show: tells the user what to do.
        wait: sleeps for seconds.

    Raises:
        LoginError: the user declined, or did not answer in time; or the provider does not answer.
    """
    if not provider.device:
        raise LoginError(f"{provider.issuer} has no device flow: log in with --browser")
    form = {"client_id": options.client_id, "scope": options.scopes, "audience": options.audience}
    started = post(provider.device, form)
    code = started.get("device_code")
    prompt = _prompt(started)
    if not isinstance(code, str) or prompt is None:
        raise LoginError(f"{provider.issuer} did not start a login on a device")
    interval = _number(started.get("interval"), _INTERVAL_SECONDS)
    ends = time.monotonic() + _number(started.get("expires_in"), _LIFETIME_SECONDS)
    show(prompt)
    form = {"grant_type": _GRANT, "device_code": code, "client_id": options.client_id}
    while True:
        if time.monotonic() + interval > ends:
            raise LoginError("nobody approved the login in time: run `modelyard login` again")
        wait(interval)
        try:
            found = post(provider.token, form)
        except LoginError as error:
            interval = _next(error, interval)
            continue
        check_id_token(found, options, None)
        return credentials(found, options)


def _next(error: LoginError, interval: float) -> float:
    """
    The next interval after an error.

    Raises:
        LoginError: it is final.
    """
    code = error.code if isinstance(error, ProviderError) else ""
    if code == "authorization_pending":
        return interval
    if code == "slow_down":
        return interval + 5
    if error.temporary:
        # RFC 8628, section 3.5: exponential backoff.
        return min(max(interval, 1) * 2, _MOST_INTERVAL_SECONDS)
    if code == "access_denied":
        raise LoginError("the login was declined") from None
    if code == "expired_token":
        raise LoginError("nobody approved the login in time: run `modelyard login` again") from None
    raise error


def _prompt(started: dict[str, Any]) -> Prompt | None:
    # Google calls it verification_url.
    url = started.get("verification_uri") or started.get("verification_url")
    code, complete = started.get("user_code"), started.get("verification_uri_complete") or ""
    if not isinstance(url, str) or not isinstance(code, str) or not isinstance(complete, str):
        return None
    if urlsplit(url).scheme not in ("http", "https"):
        return None
    return Prompt(url, code, complete if urlsplit(complete).scheme in ("http", "https") else "")


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else default
