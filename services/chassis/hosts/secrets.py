"""
TLS on the Envoy host: the listener's transport socket, and the files that Envoy finds the certificate by.

Envoy reads a certificate again when its file is replaced only if it is a secret of its discovery service (SDS).
https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret#sds-key-rotation-support
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.chassis.settings.tls import TlsFiles

_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


def transport_socket(files: TlsFiles, folder: Path) -> dict[str, Any]:
    """
    The transport socket: TLS that only takes clients with a certificate of the authority.

    Args:
        files: of the service's certificate.
        folder: for the files that Envoy finds it by. They hold paths, no secrets.
    """
    # Not resolved: it is the link that moves when Kubernetes renews what it has mounted.
    chain, key, authority = (
        {"filename": str(path.absolute())} for path in (files.certificate, files.key, files.authority)
    )
    own = _secret(folder, "certificate", {"tls_certificate": {"certificate_chain": chain, "private_key": key}})
    callers = _secret(folder, "authority", {"validation_context": {"trusted_ca": authority}})
    context = {
        "@type": f"{_TYPES}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [own],
            "validation_context_sds_secret_config": callers,
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _secret(folder: Path, name: str, content: dict[str, Any]) -> dict[str, Any]:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"resources": [{"@type": f"{_TYPES}.Secret", "name": name, **content}]}))
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": str(file)}}}
