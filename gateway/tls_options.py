"""
The options of `python -m gateway.render` for TLS.
"""

from __future__ import annotations

import argparse
import ssl
from pathlib import Path

from gateway.tls import Listener, Services, Tls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options for TLS.
    """
    group = parser.add_argument_group("TLS", "PEM files; Envoy reloads files that are replaced by renaming")
    group.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="certificate of the listener, followed by its chain"
    )
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of that certificate")
    group.add_argument(
        "--client-ca",
        type=Path,
        metavar="FILE",
        help="require client certificates issued by a CA in this bundle (mTLS)",
    )
    group.add_argument("--hsts", type=int, metavar="SECONDS", help="send Strict-Transport-Security with this max-age")
    group.add_argument(
        "--services-cert", type=Path, metavar="FILE", help="client certificate for calls of the services (mTLS)"
    )
    group.add_argument("--services-key", type=Path, metavar="FILE", help="private key of that certificate")
    group.add_argument(
        "--services-ca", type=Path, metavar="FILE", help="CA bundle that verifies the services' certificates"
    )


def parse(found: argparse.Namespace, folder: Path) -> Tls:
    """
    What the options say.

    Args:
        found: the arguments.
        folder: see `Tls`.

    Raises:
        ValueError: an option is missing, or a file is not what it should be; the text names the option.
    """
    listener = _together(found, "--tls-cert", "--tls-key")
    services = _together(found, "--services-cert", "--services-key", "--services-ca")
    if not listener and (found.client_ca is not None or found.hsts is not None):
        raise ValueError("--client-ca and --hsts require --tls-cert and --tls-key")
    if found.hsts is not None and found.hsts < 0:
        raise ValueError("--hsts must not be negative")
    for cert, key in (("--tls-cert", "--tls-key"), ("--services-cert", "--services-key")):
        if _of(found, cert) is not None:
            _check_pair(found, cert, key)
    for option in ("--client-ca", "--services-ca"):
        if _of(found, option) is not None:
            _check_authority(found, option)
    return Tls(
        folder,
        Listener(found.tls_cert, found.tls_key, found.client_ca, found.hsts) if listener else None,
        Services(found.services_cert, found.services_key, found.services_ca) if services else None,
    )


def _of(found: argparse.Namespace, option: str) -> Path | None:
    path: Path | None = getattr(found, option.removeprefix("--").replace("-", "_"))
    return path


def _together(found: argparse.Namespace, *options: str) -> bool:
    given = [option for option in options if _of(found, option) is not None]
    if given and (missing := [option for option in options if option not in given]):
        raise ValueError(f"{', '.join(given)} requires {' and '.join(missing)}")
    return bool(given)


def _check_pair(found: argparse.Namespace, cert: str, key: str) -> None:
    for option in (cert, key):
        _read(found, option)
    files = (_of(found, cert), _of(found, key))
    try:
        # Without a password OpenSSL would prompt for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(files[0]), str(files[1]), password="")
    except ssl.SSLError as error:
        raise ValueError(
            f"{cert} {files[0]} and {key} {files[1]} are not a certificate and its unencrypted private key in PEM "
            f"({error.reason or 'unreadable'})"
        ) from None


def _check_authority(found: argparse.Namespace, option: str) -> None:
    text = _read(found, option)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{option} {_of(found, option)} contains no PEM certificates") from None


def _read(found: argparse.Namespace, option: str) -> str:
    path = _of(found, option)
    try:
        return "" if path is None else path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be read: {error.strerror}") from None
