"""
What clients send cannot take a service from the others, and how calls end that take too long: through the gateway, with
the service on either host.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from embedded.s3 import S3
from gateway.limits import Limits
from gateway.tests import harness, stand_in
from modelyard.registry.v1 import models_pb2
from services.chassis.hosts import envoy
from services.chassis.tests.behaviour import hpack
from services.chassis.tests.behaviour.wire import END_HEADERS, END_STREAM, HEADERS, Reply, Wire, message

GET = "/modelyard.registry.v1.ModelService/GetModel"
CREATE = "/modelyard.registry.v1.ModelService/CreateModel"
WATCH = "/modelyard.registry.v1.ChangeService/WatchChanges"
MODELS = "/v1/namespaces/default/models"
BODY = message(b"")
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNIMPLEMENTED = 0, 3, 4, 12
EJECTIONS = "cluster.registry.outlier_detection.ejections_enforced_total"
# Of the service below, in seconds; the gateway's own bound is beyond it.
DEFAULT_DEADLINE, READ_SECONDS = 2, 3

Given = Mapping[str, str | None]


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway before a service on each host in turn.
    """
    if request.param == "envoy" and (lacks := envoy.missing()) is not None:
        pytest.skip(f"the Envoy host cannot run here: {lacks}")
    state = tmp_path_factory.mktemp("calls")
    deadline = {"MODELYARD_DEFAULT_DEADLINE_SECONDS": str(DEFAULT_DEADLINE)}
    limits = Limits(read_seconds=READ_SECONDS, write_seconds=READ_SECONDS + 1)
    with (
        stand_in.served(request.param, state, **deadline) as port,
        harness.gateway(S3(state, 1), state / "gateway", limits=limits, services={"registry": port}) as running,
    ):
        yield running


@pytest.mark.parametrize(
    "status", ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]
)
async def test_what_a_service_answers_does_not_take_it_out(edge: harness.Edge, status: str) -> None:
    """
    However often a service answers one client with a failure, the next call of another client reaches it.
    """
    async with Wire.open(edge.port) as one, Wire.open(edge.port) as other:
        for path in (CREATE, GET):
            failed = [await one.call(path, BODY, {"x-answer": status}) for _ in range(12)]
            assert OK not in {reply.status for reply in failed}
            assert {(await other.call(path, BODY)).status for _ in range(4)} == {OK}
    assert edge.count(EJECTIONS) == {EJECTIONS: 0}


@dataclass(frozen=True)
class Bad:
    """
    Headers of one client, how its calls end, and good values of the same names of another.
    """

    sent: Given
    status: int
    good: Given


BAD = {
    "encoding": Bad({"grpc-encoding": "foo"}, UNIMPLEMENTED, {"grpc-encoding": "gzip"}),
    "base64": Bad({"x-a-bin": "!!!"}, INVALID_ARGUMENT, {"x-a-bin": "AAE="}),
    "base64, bits left over": Bad({"x-a-bin": "AB"}, INVALID_ARGUMENT, {"x-a-bin": "AA"}),
    "trace": Bad({"grpc-trace-bin": "A"}, INVALID_ARGUMENT, {"grpc-trace-bin": "AAE="}),
    "timeout": Bad({"grpc-timeout": "xyz"}, INVALID_ARGUMENT, {"grpc-timeout": "10S"}),
    "attempts": Bad({"grpc-previous-rpc-attempts": "x"}, INVALID_ARGUMENT, {"grpc-previous-rpc-attempts": "1"}),
    # gRPC's own between servers, and no client's: taken away.
    "status": Bad({"grpc-status": "x"}, OK, {"grpc-status": "1"}),
    "pushback": Bad({"grpc-retry-pushback-ms": "x"}, OK, {"grpc-retry-pushback-ms": "1"}),
    "internal encoding": Bad({"grpc-internal-encoding-request": "x"}, OK, {"grpc-internal-encoding-request": "gzip"}),
    "load": Bad({"lb-cost-bin": "AAE="}, OK, {"lb-cost-bin": "AAAAAAAAAABh"}),
    # What is no text for gRPC is taken away.
    "not ASCII": Bad({"x-odd": "a\xff"}, OK, {"x-odd": "a"}),
    "verb": Bad({":method": "GET"}, UNIMPLEMENTED, {}),
    "codec": Bad({"content-type": "application/grpc+foo"}, UNIMPLEMENTED, {"content-type": "application/grpc+proto"}),
}


@pytest.mark.parametrize("kind", BAD)
async def test_headers_of_one_client_do_not_break_calls_of_another(edge: harness.Edge, kind: str) -> None:
    """
    A service's connections are shared. What grpcio cannot parse would break, from then on, all calls on the connection
    that have a header of that name: it is refused or taken away before it gets there.
    """
    bad = BAD[kind]
    async with Wire.open(edge.port) as one, Wire.open(edge.port) as other:
        # Each thread of the gateway has connections of its own.
        assert {(await one.call(GET, BODY, bad.sent)).status for _ in range(6)} == {bad.status}
        assert {(await other.call(GET, BODY, bad.good)).status for _ in range(6)} == {OK}
    assert edge.count(EJECTIONS) == {EJECTIONS: 0}


async def test_trailers_of_a_request_do_not_break_calls_of_another(edge: harness.Edge) -> None:
    """
    A request of gRPC has no trailers: they end at the gateway.
    """
    async with Wire.open(edge.port) as one, Wire.open(edge.port) as other:
        for _ in range(6):
            stream = one.begin(GET)
            one.data(stream, BODY)
            trailers = hpack.encode([("x-a-bin", "!!!"), ("grpc-status", "x")])
            one.frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)
            assert (await one.reply(stream)).status == OK
        assert {(await other.call(GET, BODY, {"x-a-bin": "AAE="})).status for _ in range(6)} == {OK}


def test_json_callers_break_nothing_either(edge: harness.Edge) -> None:
    """
    Their headers go to the services as well: 400, and code 3.
    """
    answer = edge.ask(f"{MODELS}/a", x_a_bin="!!!")
    assert (answer.status, answer.error["code"]) == (400, 3)
    assert "x-a-bin" in answer.error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/grpcfoo", None])
async def test_what_is_no_call_is_no_service_s_affair(edge: harness.Edge, content_type: str | None) -> None:
    """
    What does not call itself gRPC is 415 at the paths of gRPC.
    """
    async with Wire.open(edge.port) as wire:
        assert (await wire.call(GET, BODY, {"content-type": content_type})).http == "415"


async def test_good_binary_headers_arrive(edge: harness.Edge) -> None:
    """
    Several values may be in one header, and padding may be missing.
    """
    async with Wire.open(edge.port) as wire:
        for sent, owner in (("AAE=", "0001"), ("AAE", "0001"), ("", ""), ("AAE=, AgM", "0203")):
            reply = await wire.call(GET, BODY, {"x-a-bin": sent})
            assert (reply.status, model(reply).owner) == (OK, owner)


async def test_deadlines_are_those_of_the_caller_or_of_the_service(edge: harness.Edge) -> None:
    """
    A service hears of its caller's deadline as far as the gateway's bound allows it; without one its own default counts
    (MODELYARD_DEFAULT_DEADLINE_SECONDS).
    """
    async with Wire.open(edge.port) as wire:

        async def left(path: str, timeout: str | None) -> float:
            return float(model(await wire.call(path, BODY, {"grpc-timeout": timeout})).description)

        for path in (GET, CREATE):
            assert await left(path, None) == pytest.approx(DEFAULT_DEADLINE, abs=0.5)
            assert await left(path, "1S") == pytest.approx(1, abs=0.5)
        assert await left(GET, "99999999H") == pytest.approx(READ_SECONDS, abs=0.5)
        assert await left(CREATE, "99999999H") == pytest.approx(READ_SECONDS + 1, abs=0.5)


@pytest.mark.parametrize("path", [GET, CREATE, WATCH])
async def test_a_missed_deadline_is_deadline_exceeded(edge: harness.Edge, path: str) -> None:
    """
    Always: gateway and service do not race for who ends the call, and no stream is reset.
    """
    async with Wire.open(edge.port) as wire:
        late = {"grpc-timeout": "300m", "x-wait": "9"}
        ended = await asyncio.gather(*(wire.call(path, BODY, late) for _ in range(20)))
        assert {(reply.status, reply.reset) for reply in ended} == {(DEADLINE_EXCEEDED, None)}


@pytest.mark.parametrize("path", [GET, CREATE, WATCH])
def test_a_missed_deadline_over_grpc_web(edge: harness.Edge, path: str) -> None:
    """
    The same status, in the last frame or in the headers.
    """
    answer = _web(edge, path, grpc_timeout="300m", x_wait="9")
    assert answer.status == 200
    assert answer.headers.get("grpc-status") == "4" or b"grpc-status:4\r\n" in answer.body


@pytest.mark.parametrize("timeout", ["300m", None], ids=["the caller's", "the service's"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_missed_deadline_as_json(edge: harness.Edge, method: str, timeout: str | None) -> None:
    """
    504 and code 4.
    """
    given = {"x_wait": "9"} if timeout is None else {"x_wait": "9", "grpc_timeout": timeout}
    answer = _json(edge, method, given)
    assert (answer.status, answer.error["code"]) == (504, 4)


async def test_a_missed_deadline_of_a_stream_as_json(edge: harness.Edge) -> None:
    """
    What came is there, and the trailers say how it ended, over HTTP/2 and HTTP/1.1 (chunked: RFC 9112, section 7.1.2).
    """
    async with Wire.open(edge.port) as wire:
        given: Given = {":method": "GET", "content-type": None, "grpc-timeout": "300m", "x-wait": "9"}
        reply = await wire.reply(wire.begin("/v1/changes:watch", given, end=True))
        assert (reply.http, reply.reset, reply.trailers["grpc-status"]) == ("200", None, "4")
        assert b"appliedRevision" in reply.body
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as raw:
        raw.sendall(
            b"GET /v1/changes:watch HTTP/1.1\r\nhost: localhost\r\n"
            b"grpc-timeout: 300m\r\nx-wait: 9\r\nconnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert b"\r\n0\r\ngrpc-status: 4\r\n" in answer


def model(reply: Reply) -> models_pb2.Model:
    """
    The model in a reply.
    """
    return models_pb2.Model.FromString(bytes(reply.body[5:]))


def _web(edge: harness.Edge, path: str, **headers: str) -> harness.Answer:
    return edge.ask(path, "POST", BODY, content_type="application/grpc-web+proto", x_grpc_web="1", **headers)


def _json(edge: harness.Edge, method: str, headers: Mapping[str, str]) -> harness.Answer:
    if method == "GET":
        return edge.ask(f"{MODELS}/a", method, None, **headers)
    return edge.ask(f"{MODELS}?model_id=a", method, b"{}", content_type="application/json", **headers)
