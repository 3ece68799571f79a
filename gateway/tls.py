"""
TLS at the gateway's listener, and mutual TLS to the services. Envoy reloads certificates when they change.

Certificates reach Envoy as secrets of its discovery service (SDS), one file for each: that is what makes it look at the
folder of a certificate, and take the new one when a file is moved into it. The files hold paths, no secrets.
https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret#sds-key-rotation-support
"""

from __future__ import annotations

import ipaddress
import json
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
    TLS of the listener.

    Args:
        certificate, key: files in PEM, the chain after the certificate.
        client_ca: CA bundle for client certificates (mTLS); None requires none.
        hsts: max-age of Strict-Transport-Security in seconds (RFC 6797); None sends no header.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    hsts: int | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """
    Mutual TLS to the services.

    Args:
        certificate, key: files in PEM.
        ca: CA bundle of the services' certificates, which must have the host name of the service.
    """

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Tls:
    """
    TLS of the gateway.

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
