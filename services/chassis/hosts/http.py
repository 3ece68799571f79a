"""
The HTTP host: serves an ASGI application with uvicorn, in the event loop of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from services.chassis.serving.background import begin
from services.chassis.serving.http_calls import AsgiApp
from services.chassis.serving.tls import Identity
from services.chassis.settings import CommonSettings
from services.chassis.settings.tls import Certificate

# Longer than the gateway keeps idle connections, which would otherwise be closed under new requests.
_KEEP_ALIVE_SECONDS = 600
_BACKLOG = 2048


class HttpHost:
    """
    Serves an application.

    Args:
        app: of ASGI.
        settings: where to listen.
        identity: of the service: only callers with a certificate of its authority are let in. None means plain text.
    """

    def __init__(self, app: AsgiApp, settings: CommonSettings, identity: Identity | None = None) -> None:
        self._listen = settings.listen
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            backlog=_BACKLOG,
        )
        config.load()
        if identity is not None:
            config.ssl = server_context(identity)
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        Listen and serve.

        Raises:
            OSError: the address is taken, or not one of this machine's.
        """
        family = socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._listen.host, self._listen.port))
        except OSError as error:
            listener.close()
            raise OSError(f"cannot listen on {self._listen}: {error}") from None
        self._serving = begin(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._serving.done():
                await self._serving
                raise OSError(f"cannot listen on {self._listen}")
            await asyncio.sleep(0.005)

    async def drain(self, seconds: float) -> None:
        """
        Take no new requests, and let those in flight go on for at most *seconds*.
        """
        self._server.config.timeout_graceful_shutdown = max(1, round(seconds)) if seconds else 0
        self._server.should_exit = True
        self._server.force_exit = seconds <= 0
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """
        The launcher says when the process ends.
        """
        yield


def server_context(identity: Identity) -> ssl.SSLContext:
    """
    What the server shows to clients and asks of them: a certificate of the same authority.
    """
    served = identity.current()
    context = _context(served)

    def renewed(connection: ssl.SSLObject, _name: str | None, _before: ssl.SSLContext) -> None:
        # Called with every handshake of a client that names the server, as the gateway does.
        nonlocal served, context
        current = identity.current()
        if current is not served:
            served, context = current, _context(current)
        connection.context = context

    context.sni_callback = renewed
    return context


def _context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificate.authority.decode())
    # The module takes certificates from files only.
    with tempfile.TemporaryDirectory(prefix="modelyard-") as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        for file, data in ((chain, certificate.chain), (key, certificate.key)):
            file.touch(mode=0o600)
            file.write_bytes(data)
        context.load_cert_chain(chain, key)
    return context
