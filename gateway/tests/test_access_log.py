"""
What the gateway writes of requests, and what it counts of those that it refuses.
"""

from __future__ import annotations

import argparse
import json
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from embedded import suite
from embedded.s3 import S3
from gateway import access_log
from gateway.access import Tokens
from gateway.access_log import AccessLog
from gateway.limits import Limits
from gateway.tests import harness
from gateway.tests.echo import Echo, call
from modelyard.cli.scrape import parse
from services.chassis.access import AccessMode
from tests.tokens import AUDIENCE, ISSUER, Issuer

GET = "/modelyard.registry.v1.ModelService/GetModel"
CREATE = "/modelyard.registry.v1.ModelService/CreateModel"


@dataclass(frozen=True)
class Watched:
    """
    A gateway, and the folder where it writes.
    """

    edge: harness.Edge
    state: Path

    def lines(self, **like: object) -> list[dict[str, Any]]:
        """
        The lines so far that have these values.
        """
        found = [json.loads(line) for line in suite.access_log(self.state).read_text().splitlines()]
        return [line for line in found if like.items() <= line.items()]

    def line(self, **like: object) -> dict[str, Any]:
        """
        The one line with these values, once it is written.
        """
        _eventually(lambda: bool(self.lines(**like)), lambda: suite.access_log(self.state).read_text())
        (found,) = self.lines(**like)
        return found

    def refused(self) -> dict[str, float]:
        """
        How many were refused, by the cause.
        """
        page = self.edge.watch("/metrics").body.decode()
        return {each.labels["cause"]: each.value for each in parse(page) if each.name == "envoy_gateway_refused"}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer") / "jwks.json")


@pytest.fixture(scope="module")
def closed(issuer: Issuer, echo: tuple[Echo, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """
    A gateway that wants a token, and writes failures only.
    """
    state, tokens = tmp_path_factory.mktemp("closed"), Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file)
    services = {"registry": echo[1], "cache": echo[1]}
    log = AccessLog(percent=0)
    with harness.gateway(S3(state, 1), state, tokens=tokens, services=services, access_log=log) as running:
        yield Watched(running, state)


@pytest.fixture(scope="module")
def open_(echo: tuple[Echo, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """
    A gateway that lets everybody in, a few at a time, and writes everything.
    """
    state, services = tmp_path_factory.mktemp("open"), {"registry": echo[1], "cache": echo[1]}
    limits, log = Limits(calls=20), AccessLog(percent=100)
    with harness.gateway(S3(state, 1), state, limits=limits, services=services, access_log=log) as running:
        yield Watched(running, state)


def test_the_line_of_a_refused_call(closed: Watched, issuer: Issuer) -> None:
    """
    Who called what, from where, and why it was refused; and no token.
    """
    token = issuer.mint("registry.read")
    assert call(closed.edge, CREATE, f"Bearer {token}", x_request_id="denied-1")[0] is grpc.StatusCode.PERMISSION_DENIED
    line = closed.line(request_id="denied-1")
    assert (line["client"], line["subject"], line["path"]) == ("127.0.0.1", "ann", CREATE)
    assert line["grpc_status"] == "PERMISSION_DENIED"
    assert line["details"].startswith("rbac_access_denied")
    assert line["duration_ms"] >= 0
    assert token not in suite.access_log(closed.state).read_text()


def test_every_failure_is_written(closed: Watched, issuer: Issuer) -> None:
    """
    Failures over gRPC, as JSON and of files; successes are not, where none are to be.
    """
    good = f"Bearer {issuer.mint('registry.read')}"
    assert call(closed.edge, GET, good, x_request_id="good")[0] is grpc.StatusCode.OK
    assert closed.edge.ask("/healthz", x_request_id="good").status == 200
    listed = closed.edge.ask("/v1/namespaces/default/models", authorization=good, x_request_id="good")
    assert listed.status == 200
    call(closed.edge, GET, None, x_request_id="bad-1")
    assert closed.edge.ask("/v1/namespaces/default/models", x_request_id="bad-2").status == 401
    assert closed.edge.ask(f"/assets/{'0' * 64}", x_request_id="bad-3").status == 401
    assert closed.edge.ask("/nowhere", x_request_id="bad-4").status == 404
    for request_id, status in (("bad-2", 401), ("bad-3", 401), ("bad-4", 404)):
        assert closed.line(request_id=request_id)["status"] == status
    assert closed.line(request_id="bad-1")["grpc_status"] == "UNAUTHENTICATED"
    assert not closed.lines(request_id="good")


def test_grpc_web_is_no_failure_by_itself(closed: Watched, issuer: Issuer) -> None:
    """
    Its status is in the body, where the log does not see it: a success is none of the failures, a refusal is.
    """

    def ask(request_id: str, **headers: str) -> harness.Answer:
        content_type = "application/grpc-web+proto"
        return closed.edge.ask(GET, "POST", bytes(5), content_type=content_type, x_request_id=request_id, **headers)

    good = ask("web-good", authorization=f"Bearer {issuer.mint('registry.read')}")
    assert b"grpc-status:0" in good.body
    ask("web-bad")
    assert closed.line(request_id="web-bad")["details"].startswith("jwt_authn_access_denied")
    assert not closed.lines(request_id="web-good")


def test_who_fetches_files_is_written(closed: Watched, issuer: Issuer) -> None:
    """
    Of files too, although S3 is not told.
    """
    token = issuer.mint("assets.read")
    path = f"/assets/{'1' * 64}"
    answer = closed.edge.ask(path, authorization=f"Bearer {token}", x_request_id="file-1")
    assert answer.status == 503  # nobody is there
    line = closed.line(path=path)
    assert (line["subject"], line["request_id"], line["route"]) == ("ann", "file-1", "assets")


def test_refusals_are_counted_by_their_cause(closed: Watched, issuer: Issuer) -> None:
    """
    Missing, expired and bad tokens, and missing scopes, each for itself; however it was called.
    """
    before = closed.refused()
    expired, reader = issuer.mint("registry.read", exp=1), issuer.mint("registry.read")
    call(closed.edge, GET, None)
    closed.edge.ask("/v1/namespaces/default/models")
    call(closed.edge, GET, f"Bearer {expired}")
    call(closed.edge, GET, "Bearer nonsense")
    call(closed.edge, CREATE, f"Bearer {reader}")

    def grown() -> dict[str, float]:
        found = {cause: count - before.get(cause, 0) for cause, count in closed.refused().items()}
        return {cause: count for cause, count in found.items() if count}

    expected = {
        "jwt_authn_access_denied{Jwt_is_missing}": 2,
        "jwt_authn_access_denied{Jwt_is_expired}": 1,
        "jwt_authn_access_denied{Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections}": 1,
        "rbac_access_denied_matched_policy[none]": 1,
    }
    _eventually(lambda: grown() == expected, lambda: str(grown()))


def test_calls_beyond_the_rate_are_counted(open_: Watched) -> None:
    """
    What is refused for its rate counts under a cause of its own, over gRPC and as JSON.
    """
    # At once: one after the other, on a busy machine, they could stay below the rate.
    with open_.edge.connect_grpc() as channel, ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda _: call(open_.edge, GET, None, channel)[0], range(150)))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        asked = pool.map(lambda _: open_.edge.ask("/v1/namespaces/default/models").status, range(100))
        limited = list(asked).count(429)
    assert limited
    _eventually(lambda: open_.refused().get("local_rate_limited", 0) > limited, lambda: str(open_.refused()))


def test_the_line_of_a_good_call(open_: Watched) -> None:
    """
    A success says what was called, as it came and as it was understood, without the query of its path.
    """
    path = "/v1/namespaces/default/models"
    _eventually(lambda: open_.edge.ask(f"{path}?page_size=3", x_request_id="json-1").status == 200)
    (line, *_) = [line for line in _all(open_, "json-1") if line["status"] == 200]
    assert (line["method"], line["path"]) == ("GET", path)
    assert line["rpc"] == "/modelyard.registry.v1.ModelService/ListModels"
    assert line["route"] == "registry-reads"
    assert line["sent_bytes"] > 0
    assert "page_size" not in suite.access_log(open_.state).read_text()


def test_what_a_client_sends_splits_no_line(open_: Watched) -> None:
    """
    Quotes, and characters that are no text, are escaped within their value.
    """
    _eventually(lambda: open_.edge.ask('/healthz"x\\y', x_request_id="odd-1", user_agent='a"b\\c').status == 404)
    (line, *_) = _all(open_, "odd-1")
    assert line["user_agent"] == 'a"b\\c'


def test_services_are_told_the_clients_address(open_: Watched, echo: tuple[Echo, int]) -> None:
    """
    The address is the gateway's word, whatever the client says of itself.
    """
    echo[0].told.clear()
    _eventually(lambda: call(open_.edge, GET, None, x_modelyard_client="1.2.3.4")[0] is grpc.StatusCode.OK)
    assert {told["x-modelyard-client"] for told in echo[0].told} == {"127.0.0.1"}


def test_nobody_else_reads_the_log(open_: Watched) -> None:
    """
    The file is its owner's alone.
    """
    assert stat.S_IMODE(suite.access_log(open_.state).stat().st_mode) == 0o600


def test_a_share_is_a_percentage() -> None:
    """
    Another number is refused, with the flag's name.
    """
    with pytest.raises(ValueError, match="--access-log-percent"):
        AccessLog(percent=101)


def test_a_container_writes_to_its_standard_output() -> None:
    """
    There is a line a request without a file, where none is named.
    """
    parser = argparse.ArgumentParser()
    access_log.add_arguments(parser)
    loggers = access_log.parse(parser.parse_args([])).values()["ACCESS_LOG"]
    assert isinstance(loggers, list)
    assert loggers[0]["typed_config"]["@type"].endswith(".StdoutAccessLog")


def _all(watched: Watched, request_id: str) -> list[dict[str, Any]]:
    _eventually(lambda: bool(watched.lines(request_id=request_id)))
    return watched.lines(request_id=request_id)


def _eventually(holds: Callable[[], bool], otherwise: Callable[[], str] = lambda: "") -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.1)
