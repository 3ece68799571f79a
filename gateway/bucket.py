"""
The S3 bucket that the gateway serves, and the connection to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

#: The CA bundle of Debian-based systems, such as the container image.
SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")

#: Valid paths of `static/` files: no server normalizes them to another path. Slashes, backslashes, dots and percent
#: signs are never percent-encoded, and there are no control characters.
STATIC_PATH = (
    r"/static(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]"
    r"|%(?:2[0-46-9A-Da-d]|[346][0-9A-Fa-f]|5[0-9ABDEFabdef]|7[0-9A-Ea-e]|[89A-Fa-f][0-9A-Fa-f]))+)+"
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """
    A bucket on AWS or on an S3-compatible server.

    Args:
        name: the bucket's.
        region: as AWS calls it; it is part of the signature.
        endpoint: the server's URL; None means AWS.
        virtual_host: the bucket is a part of the host's name, as AWS wants it, and not the first part of the path.
        authorities: the CA bundle that verifies the server's certificate, for https.
    """

    name: str
    region: str = "us-east-1"
    endpoint: str | None = None
    virtual_host: bool = False
    authorities: Path = SYSTEM_CA

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the name is no bucket's, or the endpoint is not http(s)://host[:port].
        """
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.name):
            raise ValueError(f"{self.name!r} is not a valid bucket name")
        # https://datatracker.ietf.org/doc/html/rfc3986#section-3.2, without a user.
        if not re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?/?", self.url):
            # Not quoted: the URL may contain a password.
            raise ValueError("the URL of S3 is not http://host[:port] or https://host[:port]")

    @property
    def url(self) -> str:
        """
        The server's URL.
        """
        return self.endpoint or f"https://s3.{self.region}.amazonaws.com"

    @property
    def address(self) -> tuple[str, int]:
        """
        The host and the port to connect to.
        """
        url = urlsplit(self.url)
        name = f"{self.name}.{url.hostname}" if self.virtual_host else str(url.hostname)
        return name, url.port or (443 if url.scheme == "https" else 80)

    @property
    def host(self) -> str:
        """
        The Host header: with the port where it is not the usual one.
        """
        url = urlsplit(self.url)
        return self.address[0] + (f":{url.port}" if url.port else "")

    @property
    def path(self) -> str:
        """
        The prefix of the path of every key.
        """
        return "" if self.virtual_host else f"/{self.name}"

    def transport(self) -> dict[str, object]:
        """
        Envoy's transport socket: TLS with the server's name checked, or none.
        """
        return transport(urlsplit(self.url).scheme, self.address[0], self.authorities)


def transport(scheme: str, host: str, authorities: Path) -> dict[str, object]:
    """
    Envoy's transport socket to a server that speaks HTTP/1.1.

    Args:
        scheme: http or https.
        host: the name that the certificate must have.
        authorities: the CA bundle that verifies it.
    """
    kind = "type.googleapis.com/envoy.extensions.transport_sockets"
    if scheme == "http":
        plain = {"@type": f"{kind}.raw_buffer.v3.RawBuffer"}
        return {"name": "envoy.transport_sockets.raw_buffer", "typed_config": plain}
    tls = {
        "@type": f"{kind}.tls.v3.UpstreamTlsContext",
        "sni": host,
        "auto_sni_san_validation": True,
        "common_tls_context": {
            "alpn_protocols": ["http/1.1"],
            "validation_context": {"trusted_ca": {"filename": str(authorities)}},
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": tls}
