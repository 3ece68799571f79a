"""
The files of a service's certificate, as settings name them, and what has to be right about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.chassis.settings.secrets import read_secret

CERT: Final = "MODELYARD_TLS_CERT_FILE"
KEY: Final = "MODELYARD_TLS_KEY_FILE"
CA: Final = "MODELYARD_TLS_CA_FILE"


class TlsError(Exception):
    """
    A file is not what it should be; the text names the setting and what is wrong.
    """


@dataclass(frozen=True, slots=True)
class Certificate:
    """
    What the files hold, in PEM.

    Args:
        chain: the certificate, and those between it and its authority.
        key: of the certificate.
        authority: the certificates of the authorities that are trusted.
        expires: when the certificate ends.
    """

    chain: bytes
    key: bytes = field(repr=False)
    authority: bytes
    expires: datetime


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    Where a service's certificate is.

    Args:
        certificate: in PEM, its chain after it.
        key: of the certificate, unencrypted, in a file for this user only.
        authority: the certificates that those of the other side must descend from.
    """

    certificate: Path
    key: Path
    authority: Path

    def read(self) -> Certificate:
        """
        What the files hold.

        Raises:
            TlsError: a file cannot be read, they do not belong together, or the certificate has ended.
        """
        chain, authority = _bytes(CERT, self.certificate), _bytes(CA, self.authority)
        certificate = _certificates(CERT, self.certificate, chain)[0]
        _certificates(CA, self.authority, authority)
        key = _key(self.key)
        if load_pem_private_key(key, None).public_key() != certificate.public_key():
            raise TlsError(f"{KEY}={self.key}: this is not the key of the certificate in {CERT}={self.certificate}")
        expires = certificate.not_valid_after_utc
        if expires <= datetime.now(UTC):
            raise TlsError(
                f"{CERT}={self.certificate}: the certificate ended at {expires:%Y-%m-%d %H:%M} UTC: renew it"
            )
        return Certificate(chain, key, authority, expires)

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """
        What changes when a file does.

        Raises:
            OSError: a file is not there.
        """
        found = (path.stat() for path in (self.certificate, self.key, self.authority))
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting}={path}: the file cannot be read ({error.strerror})") from None


def _certificates(setting: str, path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{setting}={path}: the file holds no certificate in PEM") from None


def _key(path: Path) -> bytes:
    try:
        key = read_secret(path).reveal().encode() + b"\n"
        load_pem_private_key(key, None)
    except TypeError:
        raise TlsError(f"{KEY}={path}: the key is encrypted: store it without a password") from None
    except ValueError as error:
        # What cryptography says of a key may quote it.
        said = (
            str(error) if str(error).startswith(("the file", "there is", "this is")) else "the file holds no key in PEM"
        )
        raise TlsError(f"{KEY}={path}: {said}") from None
    return key
