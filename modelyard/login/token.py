"""
The token of a client that is logged in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

from modelyard.login import storage
from modelyard.login.credentials import Credentials
from modelyard.login.errors import LoginError, ProviderError
from modelyard.login.provider import credentials, discover
from modelyard.login.requests import post, post_only

_T = TypeVar("_T")
# After a refresh that failed, as long as the token is valid.
_RETRY_SECONDS = 10.0
# After it has expired: threads that waited for the one that tried fail with it, and do not wait one after the other.
_FAILED_SECONDS = 3.0


class LoginToken:
    """
    The access token of a login, refreshed before it expires: once for all threads and processes of this user.

    Args:
        server: the server that the login is for.
        credentials: what is stored.
    """

    def __init__(self, server: str, credentials: Credentials) -> None:
        self._server = server
        self._credentials = credentials
        self._lock = threading.Lock()
        self._retry = 0.0
        # Why the token, which has expired, could not be refreshed just now; and until when nobody tries again.
        self._failure = ""
        self._failed = 0.0

    def __repr__(self) -> str:
        return f"LoginToken({self._server!r})"

    def due(self) -> bool:
        """
        Whether `read` may take long, because the token is to be refreshed.
        """
        now = time.time()
        if now < self._credentials.due:
            return False
        return time.monotonic() >= (self._retry if now < self._credentials.expires else self._failed)

    def read(self) -> str:
        """
        A valid token.

        Raises:
            LoginError: the token has expired and cannot be refreshed: the refresh token is no longer valid, the user
                has logged out, or the provider does not answer (temporary).
        """
        if self.due():
            # While the token is valid, calls do not wait for the one that refreshes it.
            valid = time.time() < self._credentials.expires
            if self._lock.acquire(blocking=not valid):
                try:
                    self._refresh()
                finally:
                    self._lock.release()
        found, failure = self._credentials, self._failure
        if failure and time.time() >= found.expires:
            raise LoginError(failure, temporary=True)
        return found.access

    def _refresh(self) -> None:
        # Another thread may have done it meanwhile.
        if not self.due():
            return
        try:
            self._credentials = uninterrupted(lambda: refreshed(self._server))
            self._failure = ""
        except LoginError as error:
            if time.time() < self._credentials.expires:
                self._retry = time.monotonic() + _RETRY_SECONDS
                return
            if error.temporary:
                self._failed = time.monotonic() + _FAILED_SECONDS
                self._failure = str(error)
            raise


def find(server: str) -> LoginToken | None:
    """
    The token of the login at a server; None without one.

    Raises:
        LoginError: the stored credentials cannot be used.
    """
    found = storage.load(server)
    return LoginToken(server, found) if found else None


def refreshed(server: str) -> Credentials:
    """
    The credentials of a server with a token that is not due: those that another process has refreshed, or new ones.

    Raises:
        LoginError: they cannot be refreshed.
    """
    with storage.refreshing(server):
        # Under the lock: the provider may accept each refresh token once, and another process has used it.
        found = storage.load(server)
        if found is None:
            raise LoginError(f"you have logged out of {server}: run `modelyard login`")
        if time.time() < found.due:
            return found
        keyring = storage.in_keyring(server)
        fresh = _exchange(server, found)
        storage.save(server, fresh, keyring=keyring)
        return fresh


def _exchange(server: str, found: Credentials) -> Credentials:
    options = found.options
    if not found.refresh:
        raise LoginError(f"the login at {server} has expired, and has no refresh token: run `modelyard login`")
    form = {"grant_type": "refresh_token", "refresh_token": found.refresh, "client_id": options.client_id}
    try:
        return credentials(post(discover(options.issuer).token, form), options, found)
    except ProviderError as error:
        if error.code == "invalid_grant":
            raise LoginError(f"the login at {server} is no longer valid: run `modelyard login`") from None
        raise


def revoke(found: Credentials) -> bool:
    """
    Revoke a login at its provider (RFC 7009), so that nobody else can refresh it; returns whether that succeeded.
    """
    with suppress(LoginError):
        provider = discover(found.options.issuer)
        if provider.revocation and found.refresh:
            form = {"token": found.refresh, "token_type_hint": "refresh_token", "client_id": found.options.client_id}
            post_only(provider.revocation, form)
            return True
    return False


def uninterrupted(work: Callable[[], _T]) -> _T:
    """
    What *work* returns. Ctrl-C takes effect when it has ended: between the provider's answer and the file, a refresh
    token would be lost that the provider no longer accepts in its former form.
    """
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            done.set_exception(error)

    # Not joined: a join that was interrupted does not wait again (https://github.com/python/cpython/issues/90882).
    threading.Thread(target=run, name="modelyard-login").start()
    try:
        return done.result()
    except KeyboardInterrupt:
        wait([done])
        raise
