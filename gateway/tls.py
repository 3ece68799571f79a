"""
TLS at the gateway's listener, and mutual TLS to the services. Envoy reads certificates again when they change.

Certificates reach Envoy as secrets of its discovery service (SDS), one file for each: that is what makes it look at the
folder of a certificate, and take the new one when a file is moved into it. The files hold paths, no secrets.
https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret#sds-key-rotation-support
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_VERSIONS = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
_CERTIFICATE, _CLIENT_CA = "listener-certificate", "client-ca"
_OWN, _SERVICES_CA = "services-certificate", "services-ca"


@dataclass(frozen=True, slots=True)
class Listener:
    """
    What clients are shown, and asked for.

    Args:
        certificate, key: files in PEM, the chain after the certificate.
        client_ca: the authorities of which clients must present a certificate; None asks for none.
        hsts: seconds for which browsers shall come back over https only (RFC 6797); None does not say so.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    hsts: int | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """
    How the gateway shows itself to the services, and whom it takes for them.

    Args:
        certificate, key: files in PEM.
        ca: the authorities of the services' certificates, which have to name the host that is connected to.
    """

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Tls:
    """
    Where there is TLS.

    Args:
        folder: of the files that Envoy finds the certificates by; `write` fills it.
        listener: None means plain text.
        services: None means plain text.
    """

    folder: Path
    listener: Listener | None = None
    services: Services | None = None


#: Plain text everywhere.
NO_TLS = Tls(Path())


def write(tls: Tls) -> None:
    """
    Write the files that Envoy finds the certificates by.
    """
    secrets = dict(_secrets(tls))
    if secrets:
        tls.folder.mkdir(parents=True, exist_ok=True)
    for name, secret in secrets.items():
        resource = {"@type": f"{_TYPES}.Secret", "name": name, **secret}
        _file(tls, name).write_text(json.dumps({"resources": [resource]}, indent=2) + "\n")


def values(tls: Tls, services: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, object]:
    """
    What the template's places for TLS hold; None where there is none.

    Args:
        tls: where there is TLS.
        services: the addresses of each service by its name.
    """
    listener = tls.listener
    return {
        "LISTENER_TLS": None if listener is None else _downstream(tls, listener),
        # Who connects and says nothing holds a connection.
        "HANDSHAKE": None if listener is None else "10s",
        "HSTS": None if listener is None or listener.hsts is None else [_hsts(listener.hsts)],
        **{
            f"{name.upper()}_TLS": None if tls.services is None else _upstream(tls, [host for host, _ in addresses])
            for name, addresses in services.items()
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the options for TLS.
    """
    group = parser.add_argument_group("TLS", "files in PEM; Envoy takes new ones that are moved to their place")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="of the listener, its chain after it")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="the key of that certificate")
    group.add_argument("--client-ca", type=Path, metavar="FILE", help="clients must have a certificate of one of these")
    group.add_argument(
        "--hsts", type=int, metavar="SECONDS", help="tell browsers to come back over https only, for so long"
    )
    group.add_argument("--services-cert", type=Path, metavar="FILE", help="the gateway's own, for the services")
    group.add_argument("--services-key", type=Path, metavar="FILE", help="the key of that certificate")
    group.add_argument("--services-ca", type=Path, metavar="FILE", help="whose certificates the services have")


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
        raise ValueError("--client-ca and --hsts take --tls-cert and --tls-key")
    if found.hsts is not None and found.hsts < 0:
        raise ValueError("--hsts: seconds are not negative")
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


def _secrets(tls: Tls) -> Iterator[tuple[str, dict[str, object]]]:
    if tls.listener is not None:
        yield _CERTIFICATE, _pair(tls.listener.certificate, tls.listener.key)
        if tls.listener.client_ca is not None:
            yield _CLIENT_CA, _authority(tls.listener.client_ca)
    if tls.services is not None:
        yield _OWN, _pair(tls.services.certificate, tls.services.key)
        yield _SERVICES_CA, _authority(tls.services.ca)


def _pair(certificate: Path, key: Path) -> dict[str, object]:
    # Not resolved: it is the link that moves when Kubernetes renews what it has mounted.
    chain, private = ({"filename": str(each.absolute())} for each in (certificate, key))
    return {"tls_certificate": {"certificate_chain": chain, "private_key": private}}


def _authority(file: Path) -> dict[str, object]:
    return {"validation_context": {"trusted_ca": {"filename": str(file.absolute())}}}


def _file(tls: Tls, name: str) -> Path:
    return tls.folder.absolute() / f"{name}.json"


def _sds(tls: Tls, name: str) -> dict[str, object]:
    source = {"path": str(_file(tls, name))}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": source}}


def _downstream(tls: Tls, listener: Listener) -> dict[str, object]:
    common: dict[str, object] = {
        "tls_params": _VERSIONS,
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_sds(tls, _CERTIFICATE)],
    }
    context: dict[str, object] = {"@type": f"{_TYPES}.DownstreamTlsContext", "common_tls_context": common}
    if listener.client_ca is not None:
        common["validation_context_sds_secret_config"] = _sds(tls, _CLIENT_CA)
        context["require_client_certificate"] = True
    return _socket(context)


def _upstream(tls: Tls, hosts: Sequence[str]) -> dict[str, object]:
    names = [host for host in hosts if not _is_ip(host)]
    context: dict[str, object] = {
        "@type": f"{_TYPES}.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": _VERSIONS,
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [_sds(tls, _OWN)],
            "combined_validation_context": {
                # One of the service's own: a certificate of another service of the same authority is not enough.
                "default_validation_context": {
                    "match_typed_subject_alt_names": [_names(host) for host in dict.fromkeys(hosts)]
                },
                "validation_context_sds_secret_config": _sds(tls, _SERVICES_CA),
            },
        },
    }
    return _socket({**context, "sni": names[0]} if names else context)


def _socket(context: Mapping[str, object]) -> dict[str, object]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _names(host: str) -> dict[str, object]:
    return {"san_type": "IP_ADDRESS" if _is_ip(host) else "DNS", "matcher": {"exact": host}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hsts(seconds: int) -> dict[str, object]:
    header = {"key": "strict-transport-security", "value": f"max-age={seconds}"}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _of(found: argparse.Namespace, option: str) -> Path | None:
    path: Path | None = getattr(found, option.removeprefix("--").replace("-", "_"))
    return path


def _together(found: argparse.Namespace, *options: str) -> bool:
    given = [option for option in options if _of(found, option) is not None]
    if given and (missing := [option for option in options if option not in given]):
        raise ValueError(f"{', '.join(given)} takes {' and '.join(missing)} too")
    return bool(given)


def _check_pair(found: argparse.Namespace, cert: str, key: str) -> None:
    for option in (cert, key):
        _read(found, option)
    files = (_of(found, cert), _of(found, key))
    try:
        # Without a password it would ask the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(files[0]), str(files[1]), password="")
    except ssl.SSLError as error:
        raise ValueError(
            f"{cert} {files[0]} and {key} {files[1]} are no certificate and its unencrypted key in PEM "
            f"({error.reason or 'unreadable'})"
        ) from None


def _check_authority(found: argparse.Namespace, option: str) -> None:
    text = _read(found, option)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{option} {_of(found, option)} holds no certificates in PEM") from None


def _read(found: argparse.Namespace, option: str) -> str:
    path = _of(found, option)
    try:
        return "" if path is None else path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be read: {error.strerror}") from None
