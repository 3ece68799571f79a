"""
What a server shows in a TLS handshake, for the tests.
"""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from services.chassis.settings.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What came of a handshake.

    Args:
        serial: of the server's certificate.
        version: such as TLSv1.3.
        protocol: the one that was agreed upon by ALPN; None means none.
    """

    serial: int
    version: str
    protocol: str | None


def context(ca: Path, own: TlsFiles | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """
    A client's side.

    Args:
        ca: the authorities to trust.
        own: a certificate to present.
        version: the only one to speak.
    """
    found = ssl.create_default_context(cafile=str(ca))
    if own is not None:
        found.load_cert_chain(own.certificate, own.key)
    if version is not None:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            # OpenSSL itself speaks old versions at this level only: the refusal has to be the server's.
            found.set_ciphers("DEFAULT:@SECLEVEL=0")
            found.minimum_version = found.maximum_version = version
    return found


def shake(port: int, client: ssl.SSLContext, protocols: Sequence[str] = ("h2",)) -> Shown:
    """
    Shake hands with a server on loopback.

    Raises:
        OSError: it did not come to that.
    """
    client.set_alpn_protocols(list(protocols))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        client.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        certificate = secure.getpeercert(binary_form=True) or b""
        serial = x509.load_der_x509_certificate(certificate).serial_number
        return Shown(serial, secure.version() or "", secure.selected_alpn_protocol())


def serial(file: Path) -> int:
    """
    The serial number of the certificate in a file.
    """
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number
