"""
Fetches a small document over HTTP, with one timeout for the whole transfer.
"""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from contextlib import suppress
from typing import IO, Any
from urllib.parse import urlsplit

from services.chassis.loopback import is_loopback


def may_fetch(url: str, *, plain: bool) -> bool:
    """
    Whether the transport of *url* is protected against tampering: TLS, or loopback.

    Args:
        plain: accept http:// from any host.
    """
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and (plain or is_loopback(parts.hostname or "")))


def fetch(url: str, *, seconds: float, most: int, plain: bool = False) -> bytes:
    """
    Return the document at *url*. Blocks: call it in a thread.

    Args:
        seconds: timeout from the connection to the last byte. (A socket's timeout applies to each read: a slow-drip
            answer would take days.)
        most: maximum size in bytes.
        plain: see `may_fetch`; also applies to redirects.

    Raises:
        OSError, ValueError, http.client.HTTPException: it was not fetched.
    """
    sockets: list[socket.socket] = []
    late = threading.Event()

    def cut() -> None:
        late.set()
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    opener = urllib.request.build_opener(_Http(sockets), _Https(sockets), _Redirections(plain))
    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        with opener.open(url, timeout=seconds) as answer:
            found: bytes = answer.read(most + 1)
    except Exception:
        if late.is_set():
            raise TimeoutError(f"not here within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
    if late.is_set():
        # An answer without a length ends where its connection does.
        raise TimeoutError(f"not here within {seconds:g} s")
    if len(found) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return found


def _kept(kind: type[http.client.HTTPConnection], sockets: list[socket.socket]) -> Any:
    """
    Connections of this kind, whose sockets can be shut by another thread.
    """

    class Kept(kind):  # type: ignore[misc,valid-type]  # which of the two is known when it is called
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    return Kept


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._kind = _kept(http.client.HTTPConnection, sockets)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._kind = _kept(http.client.HTTPSConnection, sockets)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kind, req)


class _Redirections(urllib.request.HTTPRedirectHandler):
    def __init__(self, plain: bool) -> None:
        self._plain = plain

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not may_fetch(newurl, plain=self._plain):
            raise ValueError(f"it leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
