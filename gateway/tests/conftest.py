"""
A gateway before a bucket with a few objects, for the tests of what it serves over HTTP.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import zstandard

from embedded.s3 import BUCKET, S3
from embedded.testing import scratch
from gateway.tests import harness
from gateway.tests.echo import Echo

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Put = Callable[..., str]
FOREVER = "public, max-age=31536000, immutable"
CODECS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.fixture(scope="session")
def bucket(s3: S3) -> Iterator[S3Client]:
    """
    The bucket, behind the gateway's back.
    """
    client = harness.client(s3)
    yield client
    client.close()


@pytest.fixture(scope="session")
def edge(s3: S3) -> Iterator[harness.Edge]:
    """
    The gateway before the bucket.
    """
    with scratch() as state, harness.gateway(s3, state) as running:
        yield running


@pytest.fixture(scope="session")
def cors_edge(s3: S3) -> Iterator[harness.Edge]:
    """
    A gateway before the bucket with one allowed CORS origin, https://app.example.
    """
    with scratch() as state, harness.gateway(s3, state, origins=["https://app.example"]) as running:
        yield running


@pytest.fixture
def put(bucket: S3Client) -> Put:
    """
    Stores an asset as the asset service does, with the variants that are named; returns its path.
    """

    def store(data: bytes, *variants: str, media_type: str = "text/plain") -> str:
        key = f"assets/{hashlib.sha256(data).hexdigest()}"
        bucket.put_object(Bucket=BUCKET, Key=key, Body=data, ContentType=media_type, CacheControl=FOREVER)
        for variant in variants:
            bucket.put_object(
                Bucket=BUCKET,
                Key=f"{variant}/{key}",
                Body=CODECS[variant](data),
                ContentType=media_type,
                ContentEncoding=variant,
                CacheControl=FOREVER,
            )
        return f"/{key}"

    return store


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Echo, int]]:
    """
    A service that answers everything, and its port.
    """
    service = Echo()
    with service.served() as port:
        yield service, port
