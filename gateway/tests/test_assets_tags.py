"""
An asset's ETag is its digest, a variant's says of which encoding it is, and the conditions of HTTP hold by them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from embedded.s3 import BUCKET, S3
from embedded.testing import scratch
from gateway.access import Tokens
from gateway.tests.conftest import FOREVER, Put
from gateway.tests.harness import Edge, gateway
from services.chassis.access import AccessMode
from tests.tokens import AUDIENCE, ISSUER, Issuer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DATA = b"words that come again and again " * 50
SHA256 = hashlib.sha256(DATA).hexdigest()
PLAIN, GZIP, ZSTD = f'"{SHA256}"', f'"{SHA256}-gzip"', f'"{SHA256}-zstd"'
BOTH = "gzip, zstd"


@pytest.fixture
def path(put: Put) -> str:
    """
    An asset with both variants.
    """
    return put(DATA, "gzip", "zstd")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_tag_is_the_digest(edge: Edge, path: str, method: str) -> None:
    """
    Strong, quoted, another one for each encoding; RFC 9530 says the original's digest, with a part as well.
    """
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"
    for accept, part, tag, said in (
        ("", "", PLAIN, digest),
        ("gzip", "", GZIP, None),
        (BOTH, "", ZSTD, None),
        (BOTH, "bytes=1-3", PLAIN, digest),
    ):
        given = {"accept_encoding": accept, **({"range": part} if part else {})}
        answer = edge.ask(path, method, None, **given)
        assert (answer.headers["etag"], answer.headers.get("repr-digest")) == (tag, said)


@pytest.mark.parametrize(
    ("tags", "accept", "tag"),
    [
        (PLAIN, "", PLAIN),
        (f"W/{PLAIN}", "", PLAIN),
        (f'"other", {PLAIN}', "", PLAIN),
        (GZIP, "gzip", GZIP),
        (f"{GZIP}, {ZSTD}", BOTH, ZSTD),
        # The original is for everybody.
        (PLAIN, "gzip", PLAIN),
        (GZIP, "", None),
        (GZIP, "zstd", None),
        ('"other"', "", None),
        (f'"{"0" * 64}"', "", None),
    ],
)
def test_what_a_client_has_is_not_sent_again(edge: Edge, path: str, tags: str, accept: str, tag: str | None) -> None:
    """
    If-None-Match gets 304 when one of the tags is of an encoding that the client would be given, with the headers that
    RFC 9110, section 15.4.5, wants of it.
    """
    answer = edge.ask(path, accept_encoding=accept, if_none_match=tags, if_modified_since="nonsense")
    assert answer.status == (304 if tag else 200)
    if tag:
        assert (answer.body, answer.headers["etag"], answer.headers["cache-control"]) == (b"", tag, FOREVER)
        assert answer.headers["vary"] == "accept-encoding"
        assert "content-type" not in answer.headers
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"


def test_no_store_is_asked_for_what_a_client_has(edge: Edge) -> None:
    """
    A client that has bytes of this digest has these bytes: nobody needs to look for them.
    """
    assert edge.ask(f"/assets/{'0' * 64}", if_none_match=f'"{"0" * 64}"').status == 304
    assert edge.ask(f"/assets/{'0' * 64}", if_none_match="*").status == 404


def test_a_date_of_a_client_is_looked_at(edge: Edge, path: str) -> None:
    """
    If-Modified-Since gets 304 with tag and lifetime, too, whatever the object store says with it.
    """
    modified = edge.ask(path).headers["last-modified"]
    for accept, tag in (("", PLAIN), ("gzip", GZIP)):
        answer = edge.ask(path, accept_encoding=accept, if_modified_since=modified)
        assert (answer.status, answer.headers["etag"], answer.headers["cache-control"]) == (304, tag, FOREVER)


@pytest.mark.parametrize(
    ("tags", "accept", "status", "tag"),
    [
        (PLAIN, "", 200, PLAIN),
        # Once 412: the variant was looked for with the tag of the original.
        (PLAIN, BOTH, 200, PLAIN),
        (GZIP, BOTH, 200, GZIP),
        (f"{PLAIN}, {GZIP}", BOTH, 200, GZIP),
        ("*", BOTH, 200, ZSTD),
        (GZIP, "", 412, None),
        (f"W/{PLAIN}", "", 412, None),
        ('"other"', BOTH, 412, None),
    ],
)
def test_only_what_a_client_means(edge: Edge, path: str, tags: str, accept: str, status: int, tag: str | None) -> None:
    """
    If-Match is served with what has one of the tags, and refused where nothing has that the client takes.
    """
    answer = edge.ask(path, accept_encoding=accept, if_match=tags, if_unmodified_since="Tue, 24 Nov 2020 00:00:00 GMT")
    assert (answer.status, answer.headers.get("etag")) == (status, tag)
    if status == 412:
        assert answer.error["code"] == 9


def test_a_variant_that_is_not_there(edge: Edge, put: Put) -> None:
    """
    If-Match with the tag of a variant that is not there is refused: the original has another tag.
    """
    data = b"no variants"
    sha256 = hashlib.sha256(data).hexdigest()
    assert edge.ask(put(data), accept_encoding=BOTH, if_match=f'"{sha256}-gzip"').status == 412
    assert edge.ask(put(data), accept_encoding=BOTH, if_match=f'"{sha256}-gzip", "{sha256}"').status == 200


def test_static_files_match_in_any_encoding(edge: Edge, bucket: S3Client) -> None:
    """
    If-Match with the tag of a static file's original is served with it, also where the client takes its variant.
    """
    bucket.put_object(Bucket=BUCKET, Key="static/tags/a.txt", Body=b"plain")
    bucket.put_object(Bucket=BUCKET, Key="gzip/static/tags/a.txt", Body=b"gzip", ContentEncoding="gzip")
    etag = edge.ask("/static/tags/a.txt").headers["etag"]
    answer = edge.ask("/static/tags/a.txt", accept_encoding="gzip", if_match=etag)
    assert (answer.status, answer.body, answer.headers["etag"]) == (200, b"plain", etag)
    assert edge.ask("/static/tags/a.txt", accept_encoding="gzip", if_match='"other"').status == 412


@pytest.mark.parametrize(
    ("query", "disposition"),
    [
        ("?download=model.safetensors", "attachment; filename*=UTF-8''model.safetensors"),
        ("?x=y&download=%C3%A9%20b.onnx", "attachment; filename*=UTF-8''%C3%A9%20b.onnx"),
        ("", None),
        ("?download=", None),
        ("?download=a%2Fb", None),
        ("?download=a%5cb", None),
        ("?download=a%0d%0ax:y", None),
        ("?download=a%", None),
        ("?download=a;b", None),
        ("?download=" + "a" * 601, None),
    ],
)
def test_a_name_to_save_it_as(edge: Edge, path: str, query: str, disposition: str | None) -> None:
    """
    Whoever links to an asset says what a browser saves it as, with nothing in it that leads elsewhere.
    """
    assert edge.ask(path + query).headers.get("content-disposition") == disposition


@pytest.fixture(scope="module")
def guarded(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Issuer]]:
    """
    A gateway that gives bytes to those with a token only, and an asset service that lets everybody have them.
    """
    issuer = Issuer(tmp_path_factory.mktemp("issuer") / "jwks.json")
    tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file)
    allow = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    health = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"\x08\x01")
    cdn = grpc.server(ThreadPoolExecutor(2))
    for service, method, handler in (
        ("envoy.service.auth.v3.Authorization", "Check", allow),
        ("grpc.health.v1.Health", "Check", health),
    ):
        cdn.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = cdn.add_insecure_port("127.0.0.1:0")
    cdn.start()
    try:
        with scratch() as state, gateway(s3, state, tokens=tokens, services={"cdn": port}) as running:
            yield running, issuer
    finally:
        cdn.stop(None)


def test_who_may_not_read_is_told_nothing(guarded: tuple[Edge, Issuer], path: str) -> None:
    """
    A condition lifts no token; what is answered to those who have one is theirs alone.
    """
    edge, issuer = guarded
    for condition in ({"if_none_match": PLAIN}, {"if_match": '"other"'}):
        assert edge.ask(path, "GET", None, **condition).status == 401
    token = f"Bearer {issuer.mint('assets.read')}"
    answer = edge.ask(path, authorization=token, if_none_match=PLAIN)
    assert (answer.status, answer.headers["cache-control"]) == (304, FOREVER.replace("public", "private"))
