"""
Scripts of other sites that may call load models in a browser: by parts, with the conditions and headers of HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embedded.s3 import BUCKET
from gateway.tests.conftest import Put
from gateway.tests.harness import Edge

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SITE = "https://app.example"
MISSING = f"/assets/{'0' * 64}"


def words(value: str) -> set[str]:
    """
    The words of a header that is a list.
    """
    return {word.strip().lower() for word in value.split(",")}


@pytest.mark.parametrize("path", [MISSING, "/static/site/app.js", "/assets/x"])
def test_a_browser_may_ask_for_a_part(cors_edge: Edge, path: str) -> None:
    """
    The question before a request with Range, conditions and a token is answered with yes to the site, and to no other;
    a method that is not possible is no answer to any question.
    """
    asked = "range, if-none-match, if-match, if-range, authorization"
    question = {"access_control_request_method": "GET", "access_control_request_headers": asked}
    answer = cors_edge.ask(path, "OPTIONS", None, origin=SITE, **question)
    assert (answer.status, answer.headers.get("access-control-allow-origin")) == (200, SITE)
    assert words(asked) <= words(answer.headers["access-control-allow-headers"])
    assert {"get", "head"} <= words(answer.headers["access-control-allow-methods"])
    other = cors_edge.ask(path, "OPTIONS", None, origin=f"{SITE}.evil", **question)
    assert "access-control-allow-origin" not in other.headers
    assert cors_edge.ask(path, "OPTIONS", origin=SITE).status == 405


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_script_reads_bytes_and_their_headers(cors_edge: Edge, put: Put, method: str) -> None:
    """
    Parts, what was not changed and what is not there: all of it may be read, with what a script needs to go on. Whoever
    keeps it in between keeps it for one site.
    """
    path = put(b"0123456789", "gzip")
    etag = cors_edge.ask(path).headers["etag"]
    for headers, status in (
        ({}, 200),
        ({"accept_encoding": "gzip"}, 200),
        # An object store need not know ranges of HEAD.
        ({"range": "bytes=2-4"}, 206 if method == "GET" else 200),
        ({"if_none_match": etag}, 304),
        ({"range": "bytes=99-"}, 416 if method == "GET" else 200),
    ):
        answer = cors_edge.ask(path, method, None, origin=SITE, **headers)
        assert (answer.status, answer.headers.get("access-control-allow-origin")) == (status, SITE), headers
        exposed = words(answer.headers["access-control-expose-headers"])
        assert {"content-range", "etag", "accept-ranges", "repr-digest", "x-request-id"} <= exposed
        assert words(answer.headers["vary"]) == {"accept-encoding", "origin"}
    assert cors_edge.ask(MISSING, method, origin=SITE).headers["access-control-allow-origin"] == SITE
    assert "access-control-allow-origin" not in cors_edge.ask(path, method, origin=f"{SITE}.evil").headers


def test_a_script_reads_static_files(cors_edge: Edge, bucket: S3Client) -> None:
    """
    The same holds for static files.
    """
    bucket.put_object(Bucket=BUCKET, Key="static/site/app.js", Body=b"1", ContentType="text/javascript")
    answer = cors_edge.ask("/static/site/app.js", origin=SITE, range="bytes=0-")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (206, SITE)


def test_without_sites_nothing_is_told(edge: Edge, put: Put) -> None:
    """
    Where no other site may call, a script is told nothing, and OPTIONS is no method here.
    """
    path = put(b"mine")
    answer = edge.ask(path, origin=SITE)
    assert (answer.status, answer.headers.get("access-control-allow-origin")) == (200, None)
    question = {"origin": SITE, "access_control_request_method": "GET"}
    assert edge.ask(path, "OPTIONS", None, **question).status == 405


def test_an_answer_has_the_id_of_its_request(edge: Edge, put: Put) -> None:
    """
    As everywhere, an answer says which request it is of, so that it is found in the access log: also an error's.
    """
    for path in (put(b"known"), MISSING):
        assert edge.ask(path, x_request_id="mine-1").headers["x-request-id"] == "mine-1"
        assert edge.ask(path).headers["x-request-id"]
