"""
The TLS identity of a service: reloads the certificate, and provides credentials for mutual TLS.
"""

from __future__ import annotations

import logging
import threading
import time

import grpc

from services.chassis.settings.tls import Certificate, TlsError, TlsFiles

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class Identity:
    """
    The certificate of this service, read again when one of its files changes. May be asked from any thread.

    Args:
        files: where it is.

    Raises:
        TlsError: the files are not what they should be.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._state: object = None
        self._looked = time.monotonic()
        self._found = files.read()

    def current(self) -> Certificate:
        """
        The certificate, at most a second old. Files that are not right, such as a new certificate whose key is not
        there yet, leave the one before.
        """
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            with self._lock:
                # Who waited for the lock need not look again.
                if time.monotonic() - self._looked >= _LOOK_SECONDS:
                    self._looked = time.monotonic()
                    self._look()
        return self._found

    def _look(self) -> None:
        try:
            state: object = self._files.state()
            if state == self._state:
                return
            # Before it is read: what changes meanwhile is read again.
            self._state = state
            found = self._files.read()
        except (OSError, TlsError) as error:
            _log.warning("the certificate of this service stays what it was: %s", error)
            return
        if found != self._found:
            _log.info("the certificate of this service was renewed, until %s", found.expires.isoformat())
            self._found = found


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """
    What a grpcio server shows to clients and asks of them: a certificate of the same authority.
    """
    served = identity.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # Called in a thread of grpcio's before each handshake; None means as before.
        nonlocal served
        current = identity.current()
        if current is served:
            return None
        served = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        renewed,  # type: ignore[arg-type]  # the stubs do not know of None
        require_client_authentication=True,
    )


def channel_credentials(certificate: Certificate) -> grpc.ChannelCredentials:
    """
    What a channel shows to a server and asks of it: a certificate of the same authority for the name that is called.
    """
    return grpc.ssl_channel_credentials(certificate.authority, certificate.key, certificate.chain)


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    pair = (certificate.key, certificate.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=certificate.authority)
