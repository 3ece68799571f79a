"""
The page at / and the document at /openapi.json, from the gateway alone: no service is behind it here.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace

import pytest

from gateway import site
from gateway.access import Login, Tokens
from gateway.tests.harness import Edge, run_render
from services.chassis.access import AccessMode

CALLS = ["/v1/namespaces", "/modelyard.registry.v1.ModelService/GetModel"]
PATHS = [file.path for file in site.files()]


def test_the_page_is_there(edge: Edge) -> None:
    """
    / is a page that says what this is, and it may run nothing but its own scripts.
    """
    answer = edge.ask("/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"An AI model registry" in answer.body
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "frame-ancestors 'none'" in policy


def test_the_document_is_there(edge: Edge) -> None:
    """
    /openapi.json is the document of the tree.
    """
    answer = edge.ask("/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == json.loads((site.PAGE / "openapi.json").read_text())


@pytest.mark.parametrize(
    ("mode", "reflection", "said", "unsaid"),
    [
        (None, False, ["tools find them by reflection", "newest models"], ["Authorize", "reflection is closed"]),
        ("on", False, ["Authorize", "reflection is closed"], ["find them by reflection", "newest models"]),
        ("on", True, ["Authorize", "find them by reflection"], ["reflection is closed", "newest models"]),
        ("read-public", False, ["Authorize", "reflection is closed", "newest models"], ["find them by reflection"]),
    ],
)
def test_the_page_says_what_is_so(mode: str | None, reflection: bool, said: list[str], unsaid: list[str]) -> None:
    """
    Where calls need a token it says so, and neither promises reflection where that is closed nor leads to a refusal.
    """
    tokens = mode and Tokens(AccessMode(mode), "issuer", "audience", "https://issuer.example", reflection=reflection)
    html = next(file.data.decode() for file in site.files(tokens or None) if file.path == "/")
    assert [text for text in said if text not in html] == []
    assert [text for text in unsaid if text in html] == []
    assert "<!--" not in html
    assert html.count("<dd>") == html.count("</dd>") == html.count("<dt>")


@pytest.mark.parametrize("mode", ["on", "read-public"])
def test_the_gateway_says_where_to_log_in(mode: str) -> None:
    """
    With a client for logins, /.well-known/modelyard names issuer, client, audience and scopes; without one, it does not
    exist.
    """
    told = Login("https://login.example/realm", "modelyard-cli", "openid registry.read")
    tokens = Tokens(AccessMode(mode), "issuer", "audience", "https://issuer.example")
    (found,) = [file for file in site.files(replace(tokens, login=told)) if file.path == site.LOGIN]
    assert (site.LOGIN, found.media_type) == ("/.well-known/modelyard", "application/json")
    assert json.loads(found.data) == {
        "login": {
            "issuer": "https://login.example/realm",
            "client_id": "modelyard-cli",
            "audience": "audience",
            "scopes": "openid registry.read",
        }
    }
    assert site.LOGIN not in [file.path for file in (*site.files(tokens), *site.files())]


def test_all_that_the_page_loads_is_here(edge: Edge) -> None:
    """
    Every address in the page leads to this gateway, and what the page loads is there, for good.
    """
    html = edge.ask("/").body.decode()
    assert "//" not in html.replace("<!doctype html>", "")
    loaded = re.findall(r'(?:<link rel="stylesheet" href|<script src)="([^"]+)"', html)
    assert len(loaded) == 4
    for path in loaded:
        answer = edge.ask(path)
        assert (answer.status, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        assert answer.headers["content-type"] in ("text/css; charset=utf-8", "text/javascript; charset=utf-8")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PATHS)
def test_it_is_compressed_for_who_takes_it(edge: Edge, path: str) -> None:
    """
    A client that takes gzip gets the same bytes in less.
    """
    plain, zipped = edge.ask(path), edge.ask(path, accept_encoding="gzip, deflate, br")
    assert "content-encoding" not in plain.headers
    assert (zipped.headers["content-encoding"], zipped.headers["vary"]) == ("gzip", "accept-encoding")
    assert gzip.decompress(zipped.body) == plain.body
    assert len(zipped.body) < len(plain.body)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [("GZIP", "gzip"), ("br, gzip;q=0.5", "gzip"), ("gzip;q=0", None), ("gzip;q=0.0, br", None), ("xgzip", None)],
)
def test_no_encoding_that_is_not_taken(edge: Edge, accept: str, encoding: str | None) -> None:
    """
    gzip in any case and with a weight, but not with the weight 0.
    """
    assert edge.ask("/", accept_encoding=accept).headers.get("content-encoding") == encoding


@pytest.mark.parametrize("path", PATHS)
def test_what_is_known_is_not_sent_again(edge: Edge, path: str) -> None:
    """
    A client that has the current bytes gets 304.
    """
    tag = edge.ask(path).headers["etag"]
    answer = edge.ask(path, if_none_match=f'"other", {tag}', accept_encoding="gzip")
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert edge.ask(path, if_none_match='"other"').status == 200


def test_head_is_get_without_the_bytes(edge: Edge) -> None:
    """
    HEAD has the headers of GET.
    """
    got, asked = edge.ask("/openapi.json"), edge.ask("/openapi.json", "HEAD")
    assert (asked.status, asked.body) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]


def test_it_is_only_read(edge: Edge) -> None:
    """
    Other methods are refused with those that are not.
    """
    answer = edge.ask("/openapi.json", "POST", b"{}")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", CALLS)
def test_other_sites_may_not_call(edge: Edge, path: str) -> None:
    """
    Without the setting no site's scripts are let in.
    """
    assert preflight(edge, path, "https://app.example") is None
    assert "access-control-allow-origin" not in edge.ask(path, origin="https://app.example").headers


@pytest.mark.parametrize("path", CALLS)
def test_sites_that_are_named_may_call(cors_edge: Edge, path: str) -> None:
    """
    A site of the setting may call in JSON and gRPC-Web, and read the status of what fails; another one may not.
    """
    assert preflight(cors_edge, path, "https://app.example") == "https://app.example"
    assert preflight(cors_edge, path, "https://app.example.evil") is None
    answer = cors_edge.ask(path, origin="https://app.example")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "grpc-status" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in cors_edge.ask(path, origin="https://app.example.evil").headers


def preflight(edge: Edge, path: str, origin: str) -> str | None:
    """
    The origin that a browser would be told it may call from.
    """
    answer = edge.ask(
        path,
        "OPTIONS",
        origin=origin,
        access_control_request_method="PATCH",
        access_control_request_headers="content-type,x-grpc-web",
    )
    assert answer.status == 200
    return answer.headers.get("access-control-allow-origin")


@pytest.mark.parametrize("origin", ["*", "app.example", "https://app.example/", "https://app.example/path"])
def test_what_is_no_origin_is_a_usage_error(origin: str) -> None:
    """
    A setting that no browser's Origin could match is refused.
    """
    done = run_render("--descriptors", "x", "--cors-origin", origin)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not an origin" in done.stderr
