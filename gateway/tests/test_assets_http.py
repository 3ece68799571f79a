"""
Assets and static files over HTTP: what S3 keeps arrives as it is kept, and nothing else of S3 does.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest

from embedded.s3 import BUCKET
from gateway.tests.conftest import FOREVER, Put
from gateway.tests.harness import Edge

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MISSING = f"/assets/{'0' * 64}"
SECURE = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox; default-src 'none'"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_asset_is_served_as_it_is_stored(edge: Edge, put: Put, bucket: S3Client, method: str) -> None:
    """
    The bytes (not for HEAD) and their metadata are those of S3, with the headers that keep pages from running.
    """
    data = b"some weights"
    path = put(data, media_type="application/x-weights")
    answer = edge.ask(path, method, x_request_id="mine")
    assert (answer.status, answer.body) == (200, data if method == "GET" else b"")
    stored = bucket.head_object(Bucket=BUCKET, Key=path[1:])
    expected = {
        "content-length": str(len(data)),
        "content-type": "application/x-weights",
        "cache-control": FOREVER,
        "etag": f'"{path.removeprefix("/assets/")}"',
        "docker-content-digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "repr-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:",
        "x-request-id": "mine",
        "last-modified": stored["LastModified"].strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "accept-ranges": "bytes",
        "vary": "accept-encoding",
        "server": "modelyard",
        **SECURE,
    }
    assert {name: value for name, value in answer.headers.items() if name != "date"} == expected


def test_an_empty_asset_is_served(edge: Edge, put: Put) -> None:
    """
    An asset may have no bytes.
    """
    answer = edge.ask(put(b""))
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")


def test_a_static_file_is_served_as_it_is_stored(edge: Edge, bucket: S3Client) -> None:
    """
    A static file has the metadata of its own, and may be a page; which does not run as one of the gateway's own.
    """
    bucket.put_object(
        Bucket=BUCKET,
        Key="static/site/index.html",
        Body=b"<p>",
        ContentType="text/html",
        CacheControl="max-age=60",
        ContentDisposition='inline; filename="index.html"',
    )
    answer = edge.ask("/static/site/index.html")
    assert (answer.status, answer.body) == (200, b"<p>")
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["cache-control"] == "max-age=60"
    assert answer.headers["content-disposition"] == 'inline; filename="index.html"'
    assert (answer.headers["vary"], answer.headers["x-content-type-options"]) == ("accept-encoding", "nosniff")
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a%20b.txt", "a b.txt"),
        ("%C3%A9.txt", "é.txt"),
        ("(y)+z!.js", "(y)+z!.js"),
        ("a=b&c;d,e@f:g~h'i*j$k", "a=b&c;d,e@f:g~h'i*j$k"),
        (".hidden/...x", ".hidden/...x"),
    ],
)
def test_static_paths_may_have_signs(edge: Edge, bucket: S3Client, path: str, key: str) -> None:
    """
    The signature holds for every sign that a path may have, written as it is or as an escape.
    """
    bucket.put_object(Bucket=BUCKET, Key=f"static/signs/{key}", Body=key.encode())
    answer = edge.ask(f"/static/signs/{path}")
    assert (answer.status, answer.body) == (200, key.encode())


@pytest.mark.parametrize(
    ("given", "content_range", "expected"),
    [
        ("bytes=2-4", "bytes 2-4/10", b"234"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=-2", "bytes 8-9/10", b"89"),
        ("bytes=8-99", "bytes 8-9/10", b"89"),
    ],
)
def test_a_part_is_served(edge: Edge, put: Put, given: str, content_range: str, expected: bytes) -> None:
    """
    Range gets a part of the original, whatever encodings the client takes.
    """
    answer = edge.ask(put(b"0123456789", "gzip", "zstd"), range=given, accept_encoding="zstd, gzip")
    assert (answer.status, answer.body) == (206, expected)
    assert answer.headers["content-range"] == content_range
    assert "content-encoding" not in answer.headers


def test_a_part_after_the_end_is_refused(edge: Edge, put: Put) -> None:
    """
    A range after the last byte gets 416 and the length there is, not the words of S3.
    """
    answer = edge.ask(put(b"0123456789"), range="bytes=10-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */10")
    assert answer.error["code"] == 11


def test_a_known_asset_is_not_sent_again(edge: Edge, put: Put) -> None:
    """
    If-None-Match and If-Modified-Since get 304 without a body, also when the tag is one of many.
    """
    path = put(b"known")
    first = edge.ask(path)
    for condition in (
        {"if_none_match": first.headers["etag"]},
        {"if_none_match": f'"other",   {first.headers["etag"]}'},
        {"if_modified_since": first.headers["last-modified"]},
    ):
        again = edge.ask(path, "GET", None, **condition)
        assert (again.status, again.body) == (304, b""), condition
        assert again.headers["vary"] == "accept-encoding"


def test_if_range_asks_for_all_of_a_changed_file(edge: Edge, put: Put) -> None:
    """
    A part is sent while the tag is the one that the client has, and the whole otherwise.
    """
    path = put(b"0123456789", "gzip")
    etag, variant = (edge.ask(path, accept_encoding=accept).headers["etag"] for accept in ("", "gzip"))
    assert edge.ask(path, range="bytes=5-", if_range=etag).status == 206
    # A weak tag and a date say too little.
    for other in (variant, '"another"', f"W/{etag}", "Tue, 24 Nov 2026 00:00:00 GMT", "nonsense"):
        whole = edge.ask(path, range="bytes=5-", if_range=other)
        assert (whole.status, whole.body) == (200, b"0123456789"), other


def test_if_range_does_not_lift_other_conditions(edge: Edge, put: Put) -> None:
    """
    If-Match is the client's own condition, and If-Range without a range means nothing.
    """
    path = put(b"0123456789")
    etag = edge.ask(path).headers["etag"]
    assert edge.ask(path, range="bytes=5-", if_range=etag, if_match='"another"').status == 412
    assert edge.ask(path, range="bytes=5-", if_match='"another"').status == 412
    assert edge.ask(path, if_range='"another"').status == 200


def test_a_condition_that_does_not_hold(edge: Edge, put: Put) -> None:
    """
    If-Match with another tag gets 412.
    """
    answer = edge.ask(put(b"mine"), if_match='"another"')
    assert (answer.status, answer.error["code"]) == (412, 9)


@pytest.mark.parametrize("accept", ["", "zstd, gzip"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_not_there_is_not_found(edge: Edge, method: str, accept: str) -> None:
    """
    A key that S3 does not have gets 404 as JSON, which nobody keeps, with the headers of an asset.
    """
    answer = edge.ask(MISSING, method, accept_encoding=accept)
    assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")
    assert answer.headers["vary"] == "accept-encoding"
    assert SECURE.items() <= answer.headers.items()
    if method == "GET":
        assert answer.error == {"code": 5, "message": "there is nothing at this path", "details": []}


@pytest.mark.parametrize("digest", ["", "abc", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "/", "0" * 64 + "/x", "g" * 64])
def test_a_malformed_digest_is_not_found(edge: Edge, digest: str) -> None:
    """
    What is no digest gets 404 as JSON without asking S3.
    """
    answer = edge.ask(f"/assets/{digest}")
    assert (answer.status, answer.error["code"], answer.headers["vary"]) == (404, 5, "accept-encoding")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", [MISSING, "/assets/x", "/static/index.html"])
def test_only_reading_is_possible(edge: Edge, method: str, path: str) -> None:
    """
    Every other method gets 405, with those that are possible.
    """
    answer = edge.ask(path, method, b"x")
    assert (answer.status, answer.headers["allow"], answer.error["code"]) == (405, "GET, HEAD", 12)
    assert answer.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/assets/x", "GET", 404), ("/static/%2f", "GET", 404), ("/assets/x", "POST", 405), (MISSING, "GET", 404)],
)
@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc-web+proto"])
def test_errors_do_not_look_like_bytes(edge: Edge, path: str, method: str, status: int, content_type: str) -> None:
    """
    Whoever claims to speak gRPC gets the status of HTTP too: 200 would be kept by caches in place of the asset.
    """
    answer = edge.ask(path, method, content_type=content_type)
    assert (answer.status, answer.headers["cache-control"]) == (status, "no-store")
    assert answer.error["code"] == (5 if status == 404 else 12)


def test_what_s3_would_act_upon_stays_here(edge: Edge, put: Put) -> None:
    """
    Credentials, cookies, S3's own headers and the query string of a client never reach S3.
    """
    path = put(b"plain")
    query = "?response-content-type=text/html&versionId=1&X-Amz-Signature=x&acl"
    answer = edge.ask(
        path + query,
        authorization="AWS4-HMAC-SHA256 Credential=me",
        cookie="a=b",
        x_amz_security_token="mine",
        x_amz_date="20200101T000000Z",
        x_amz_request_payer="requester",
        x_amz_checksum_mode="ENABLED",
        content_type="text/html",
    )
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"plain", "text/plain")


def test_a_body_does_not_matter(edge: Edge, put: Put) -> None:
    """
    A GET with a body is answered like one without.
    """
    answer = edge.ask(put(b"plain"), "GET", b"x" * 1000)
    assert (answer.status, answer.body) == (200, b"plain")


@pytest.mark.parametrize(
    "path",
    [
        "/private/{}",
        "/assets/../private/{}",
        "/assets/%2e%2e/private/{}",
        "/assets/%2E%2E%2Fprivate%2F{}",
        "/assets/..%2fprivate/{}",
        "/assets//private/{}",
        "//private/{}",
        "/static/../private/{}",
        "/static/x/../../private/{}",
        "/static/..%2fprivate/{}",
        "/static/..%2Fprivate%2F{}",
        "/static/%2e%2e%2fprivate/{}",
        "/static/%252e%252e%252fprivate/{}",
        "/static/..%5cprivate/{}",
        "/static/..\\private\\{}",
        "/static//../private/{}",
        "/static/./../private/{}",
        "/static/x%00/../../private/{}",
        "/static/..;/private/{}",
        "/zstd/private/{}",
        "/static?/../private/{}",
        "/static/?/../../private/{}",
        "http://localhost/private/{}",
        "/assets/{}",
        "/static/{}",
    ],
)
def test_a_private_object_has_no_path(edge: Edge, bucket: S3Client, path: str) -> None:
    """
    What is stored outside of the two public prefixes cannot be reached, however its path is written.
    """
    data = b"a private object"
    digest = hashlib.sha256(data).hexdigest()
    for key in (f"private/{digest}", f"gzip/private/{digest}", f"zstd/private/{digest}"):
        bucket.put_object(Bucket=BUCKET, Key=key, Body=data)
    answer = edge.ask(path.format(digest), accept_encoding="gzip, zstd")
    assert answer.status in (400, 404)
    assert data not in answer.body
