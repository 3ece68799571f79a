"""
CloudFront's API for tests: moto behind a proxy that can fail.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient

_BUSY = """<?xml version="1.0"?>
<ErrorResponse xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"><Error><Type>Sender</Type><Code>{code}</Code>
<Message>for account 123456789012</Message></Error><RequestId>r</RequestId></ErrorResponse>"""


@dataclass
class Cloud:
    """
    CloudFront with a distribution.

    Args:
        endpoint: the way to it that can be in trouble.
        client: straight to it.
        distribution: its id.
        troubles: a status and a code for each of the next calls, in place of an answer.
        creations: the bodies of the calls that were to create an invalidation, answered or not.
        in_progress: it does not say that an invalidation is complete.
    """

    endpoint: str
    client: CloudFrontClient
    distribution: str
    troubles: list[tuple[int, str]] = field(default_factory=list)
    creations: list[str] = field(default_factory=list)
    in_progress: bool = False

    def references(self) -> list[str]:
        """
        The caller references of the requested invalidations.
        """
        return [re.findall("<CallerReference>(.*?)</CallerReference>", body)[0] for body in self.creations]

    def paths(self) -> list[list[str]]:
        """
        The paths of the requested invalidations.
        """
        return [re.findall("<Path>(.*?)</Path>", body) for body in self.creations]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    cloud: Cloud
    upstream: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.cloud.creations.append(body.decode())
        self._answer(body)

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: bytes | None) -> None:
        cloud = self.server.cloud
        if cloud.troubles:
            status, code = cloud.troubles.pop(0)
            answer = _BUSY.format(code=code).encode()
        else:
            status, answer = self._ask(body)
        if cloud.in_progress:
            answer = answer.replace(b"<Status>COMPLETED<", b"<Status>InProgress<")
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _ask(self, body: bytes | None) -> tuple[int, bytes]:
        # moto reads the service's name from the signature. The Content-Type that urllib would add is omitted.
        kept = {"Authorization": self.headers["Authorization"], "Content-Type": "text/xml"}
        request = urllib.request.Request(self.server.upstream + self.path, body, kept)  # noqa: S310 - to loopback
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - to loopback
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def log_message(self, *_: Any) -> None:
        """
        Nothing is logged.
        """


@contextmanager
def clouds() -> Iterator[Cloud]:
    """
    CloudFront while the block lasts.
    """
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        server.upstream = "http://{}:{}".format(*moto.get_host_and_port())
        client: CloudFrontClient = boto3.client(
            "cloudfront",
            endpoint_url=server.upstream,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        server.cloud = Cloud(f"http://127.0.0.1:{server.server_port}", client, _distribution(client))
        yield server.cloud
        client.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        moto.stop()


def _distribution(client: CloudFrontClient) -> str:
    origin = {"Id": "o", "DomainName": "b.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}
    config: Any = {
        "CallerReference": "test",
        "Comment": "",
        "Enabled": True,
        "Origins": {"Quantity": 1, "Items": [origin]},
        "DefaultCacheBehavior": {"TargetOriginId": "o", "ViewerProtocolPolicy": "https-only"},
    }
    return client.create_distribution(DistributionConfig=config)["Distribution"]["Id"]
