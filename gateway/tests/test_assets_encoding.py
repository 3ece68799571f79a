"""
Compressed variants of assets: who takes them gets them, if there are any.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import zstandard

from embedded.s3 import BUCKET, S3
from embedded.testing import scratch
from gateway.tests.conftest import Put
from gateway.tests.harness import Edge, gateway

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DECODE: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "zstd": zstandard.decompress,
}
DATA = b"words that come again and again " * 50


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("zstd", "zstd"),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZIP", "gzip"),
        ("gzip;q=0.5,zstd;q=0.1", "zstd"),
        ("zstd ; q=0, gzip", "gzip"),
        ("zstd;q=0.000, gzip;q=0.001", "gzip"),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("", None),
        ("identity", None),
        ("gzip;q=0, zstd;q=0", None),
        ("gzip;q=0.5, identity", None),
        ("br, deflate", None),
        ("*", None),
        ("xgzip, zstdx", None),
        ("gzip;q=nonsense", None),
        (";, ,;q=1", None),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_preferred_encoding_is_served(edge: Edge, put: Put, method: str, accept: str, expected: str | None) -> None:
    """
    Accept-Encoding decides by RFC 9110: zstd before gzip, never what has q=0 or less than the original.
    """
    answer = edge.ask(put(DATA, "zstd", "gzip"), method, accept_encoding=accept)
    assert (answer.status, answer.headers.get("content-encoding")) == (200, expected)
    assert (answer.headers["vary"], answer.headers["content-type"]) == ("accept-encoding", "text/plain")
    # Parts are parts of the original.
    assert answer.headers.get("accept-ranges") == (None if expected else "bytes")
    if method == "GET":
        assert DECODE[expected](answer.body) == DATA


def test_without_the_header_the_original_is_served(edge: Edge, put: Put) -> None:
    """
    A client that says nothing of encodings gets the original.
    """
    answer = edge.ask(put(DATA, "zstd", "gzip"))
    assert (answer.body, answer.headers.get("content-encoding")) == (DATA, None)


@pytest.mark.parametrize(
    ("stored", "accept", "expected"),
    [
        (("gzip",), "zstd, gzip", "gzip"),
        (("zstd",), "zstd, gzip", "zstd"),
        (("zstd",), "gzip", None),
        ((), "zstd, gzip", None),
        ((), "gzip", None),
    ],
)
def test_a_missing_variant_is_passed_over(
    edge: Edge, put: Put, stored: tuple[str, ...], accept: str, expected: str | None
) -> None:
    """
    Where the preferred variant is not stored the next one is served, and the original when there is none.
    """
    data = DATA + repr((stored, accept)).encode()
    answer = edge.ask(put(data, *stored), accept_encoding=accept)
    assert (answer.status, answer.headers.get("content-encoding")) == (200, expected)
    assert expected is not None or answer.body == data


def test_static_files_have_variants_too(edge: Edge, bucket: S3Client) -> None:
    """
    The variants of a static file lie under the same prefixes.
    """
    bucket.put_object(Bucket=BUCKET, Key="static/v.js", Body=b"original")
    bucket.put_object(Bucket=BUCKET, Key="gzip/static/v.js", Body=b"zipped", ContentEncoding="gzip")
    assert edge.ask("/static/v.js").body == b"original"
    answer = edge.ask("/static/v.js", accept_encoding="zstd, gzip")
    assert (answer.body, answer.headers["content-encoding"]) == (b"zipped", "gzip")


def test_a_known_variant_is_not_sent_again(edge: Edge, put: Put) -> None:
    """
    A variant has a tag of its own, which makes no other answer current.
    """
    path = put(DATA, "gzip")
    zipped, plain = edge.ask(path, accept_encoding="gzip"), edge.ask(path)
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert edge.ask(path, accept_encoding="gzip", if_none_match=zipped.headers["etag"]).status == 304
    assert edge.ask(path, if_none_match=zipped.headers["etag"]).status == 200


def test_looking_for_variants_keeps_connections(s3: S3, put: Put) -> None:
    """
    A variant that is missing costs a question, not the connection to S3 and its handshake.
    """
    path = put(DATA + b"without variants")
    with scratch() as state, gateway(s3, state) as edge:
        for _ in range(20):
            assert edge.ask(path, accept_encoding="zstd, gzip").status == 200
        counted = edge.count("cluster.s3.upstream_cx_destroy", "cluster.s3.upstream_rq_total")
    assert counted == {"cluster.s3.upstream_cx_destroy": 0, "cluster.s3.upstream_rq_total": 60}
