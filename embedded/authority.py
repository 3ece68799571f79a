"""
TLS in the embedded run: an authority of its own, for development, and a certificate for each part.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.chassis.settings.tls import CA, CERT, KEY, TlsFiles

_AUTHORITY_DAYS = 3650
# New ones are issued at every start.
_DAYS = 397
_HOSTS = ("localhost", "127.0.0.1", "::1")
_AHEAD = timedelta(hours=1)  # of clocks that are late


@dataclass(frozen=True, slots=True)
class Authority:
    """
    A certificate authority in a folder; made when it is asked first.

    Args:
        folder: for its certificate, its key, and what it issues.
    """

    folder: Path

    @property
    def certificate(self) -> Path:
        """
        The file that clients have to be given.
        """
        return self.folder / "ca.pem"

    def issue(self, name: str, hosts: Sequence[str] = _HOSTS, days: float = _DAYS) -> TlsFiles:
        """
        Issue a certificate for *name*, in place of the one that it may have. Its files are replaced in one step each:
        nobody reads half a file, and Envoy notices.

        Args:
            name: of the part; also the name of its files.
            hosts: names and addresses that it serves at, beside *name*.
            days: that it is good for.
        """
        self._make()
        issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        issuer_key = load_pem_private_key(self._key.read_bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - made below
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        built = (
            _builder(name, issuer.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general(host) for host in (name, *hosts)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        files = TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.certificate)
        _write(files.key, _pem(key))
        _write(files.certificate, built.public_bytes(Encoding.PEM))
        return files

    @property
    def _key(self) -> Path:
        return self.folder / "ca.key"

    def _make(self) -> None:
        if self.certificate.exists():
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Modelyard development")
        built = (
            _builder("Modelyard development", name, key, _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_signs(), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(self._key, _pem(key))
        _write(self.certificate, built.public_bytes(Encoding.PEM))


def settings(files: TlsFiles | None) -> dict[str, str]:
    """
    The settings of the service with this certificate.
    """
    if files is None:
        return {}
    return {CERT: str(files.certificate), KEY: str(files.key), CA: str(files.authority)}


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _AHEAD)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _signs() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    made = path.with_name(f".{path.name}.new")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644 if path.suffix == ".pem" else 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    made.replace(path)
