"""
Liveness, readiness and reflection, as probes and tools ask for them.
"""

from __future__ import annotations

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from embedded.parts import free_port
from services.chassis.observability.metrics import Metrics
from services.chassis.serving import health, reflection
from services.chassis.settings import Address
from services.chassis.tests.in_process import details, eventually, failure, wired

NAME = "modelyard.test.v1.TestService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _Database:
    """
    A dependency that can be taken down: a real listener that a ping connects to.
    """

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def ping(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.close()


@pytest.fixture
async def database() -> AsyncIterator[_Database]:
    """
    A dependency that is up.
    """
    it = _Database()
    await it.start()
    yield it
    await it.stop()


@asynccontextmanager
async def _asked(state: health.Health) -> AsyncIterator[Any]:
    async with state.watch_dependencies(), _served(state) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def _served(state: health.Health) -> Any:
    return wired(partial(health.add_to_server, health.HealthService(state)))


def _request(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def _until(watch: Any, status: int) -> None:
    async with asyncio.timeout(10):
        while (await watch.read()).status != status:
            pass


async def test_readiness_follows_the_dependency_and_liveness_does_not(database: _Database) -> None:
    """
    A dependency that dies takes readiness away and gives it back with its return; liveness stays throughout.
    """
    metrics = Metrics("services.test", "grpcio")
    state = health.Health(metrics)
    state.serves(NAME)
    state.depends_on("database", database.ping, interval=0.02)
    async with _asked(state) as stub:
        watch = stub.Watch(_request(NAME))
        await _until(watch, SERVING)
        await database.stop()
        await _until(watch, NOT_SERVING)
        assert state.down() == ["database"]
        assert metrics.registry.get_sample_value("modelyard_dependency_up", {"dependency": "database"}) == 0
        assert (await stub.Check(_request(NAME))).status == NOT_SERVING
        assert (await stub.Check(_request(""))).status == SERVING
        await database.start()
        await _until(watch, SERVING)
        assert metrics.registry.get_sample_value("modelyard_dependency_up", {"dependency": "database"}) == 1
        watch.cancel()


async def test_a_dependency_that_hangs_is_down() -> None:
    """
    No answer within the timeout is a bad answer, and one bad dependency of two is enough.
    """
    state = health.Health()
    state.serves(NAME)

    async def answers() -> None:
        return None

    state.depends_on("hangs", asyncio.Event().wait, timeout=0.05)
    state.depends_on("answers", answers)
    async with _asked(state) as stub:
        assert (await stub.Check(_request(NAME))).status == NOT_SERVING
        assert state.down() == ["hangs"]


async def test_nothing_is_ready_before_the_first_ping() -> None:
    """
    A dependency that was not asked yet counts as down.
    """
    state = health.Health()
    state.serves(NAME)
    state.depends_on("unasked", asyncio.Event().wait)
    assert state.status(NAME) == NOT_SERVING
    assert state.status("") == SERVING


async def test_unknown_services() -> None:
    """
    Check answers NOT_FOUND for a service that is not served; Watch says SERVICE_UNKNOWN and stays, per the protocol.
    """
    state = health.Health()
    async with _asked(state) as stub:
        error = await failure(stub.Check(_request("no.Such")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert details(error)["ErrorInfo"].reason == "SERVICE_UNKNOWN"
        watch = stub.Watch(_request(NAME))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        state.serves(NAME)
        await _until(watch, SERVING)
        watch.cancel()


async def test_draining_turns_everything_down_and_lets_watchers_go(database: _Database) -> None:
    """
    While draining all is NOT_SERVING for good, and watchers' streams end, so that the drain need not wait for them.
    """
    state = health.Health()
    state.serves(NAME)
    state.depends_on("database", database.ping, interval=0.02)
    async with _asked(state) as stub:
        heard: dict[str, list[int]] = {"": [], NAME: []}

        async def listen(name: str) -> None:
            async for each in stub.Watch(_request(name)):
                heard[name].append(each.status)

        listeners = asyncio.gather(*map(listen, heard))
        await eventually(lambda: all(heard.values()))
        state.drain()
        async with asyncio.timeout(5):
            await listeners
        assert heard == {"": [SERVING, NOT_SERVING], NAME: [SERVING, NOT_SERVING]}
        assert (await stub.Check(_request(NAME))).status == NOT_SERVING
        assert (await stub.Check(_request(""))).status == NOT_SERVING


async def test_a_status_is_sent_only_when_it_changes(database: _Database) -> None:
    """
    Pings that bring no news are not passed on to watchers.
    """
    state = health.Health()
    state.serves(NAME)
    state.depends_on("database", database.ping, interval=0.01)
    async with _asked(state) as stub:
        watch = stub.Watch(_request(NAME))
        assert (await watch.read()).status == SERVING
        await asyncio.sleep(0.2)
        state.drain()
        assert (await watch.read()).status == NOT_SERVING


async def test_list_names_everything() -> None:
    """
    List answers for liveness and each service at once.
    """
    state = health.Health()
    state.serves(NAME)
    state.depends_on("hangs", asyncio.Event().wait, timeout=0.01)
    async with _asked(state) as stub:
        answer = await stub.List(health_pb2.HealthListRequest())
    assert {name: each.status for name, each in answer.statuses.items()} == {"": SERVING, NAME: NOT_SERVING}


# --- reflection ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[reflection.V1, reflection.V1ALPHA])
async def reflect(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """
    Ask one version of the service the way grpcurl does: several questions on one stream.
    """
    servicer = reflection.ReflectionService([health_pb2.DESCRIPTOR.services_by_name["Health"].full_name])
    adders = [partial(add, servicer) for add in (reflection.add_v1_to_server, reflection.add_v1alpha_to_server)]
    async with wired(*adders) as channel:
        ask = channel.stream_stream(
            f"/{request.param}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

        async def asked(**question: Any) -> Any:
            (answer,) = [each async for each in ask(iter([reflection_pb2.ServerReflectionRequest(**question)]))]
            return answer

        yield asked


def _files(answer: Any) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    found = map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    return {file.name: file for file in found}


async def test_reflection_lists_what_is_served(reflect: Any) -> None:
    """
    The list holds the services and both versions of reflection.
    """
    answer = await reflect(list_services="")
    assert [each.name for each in answer.list_services_response.service] == [
        "grpc.health.v1.Health",
        reflection.V1,
        reflection.V1ALPHA,
    ]


@pytest.mark.parametrize(
    "symbol",
    [
        "grpc.health.v1.Health",
        "grpc.health.v1.Health.Check",
        "grpc.health.v1.HealthCheckResponse",
        "grpc.health.v1.HealthCheckResponse.status",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
    ],
)
async def test_reflection_finds_symbols(reflect: Any, symbol: str) -> None:
    """
    A service, a method, a message, a field and an enum lead to the file that defines them.
    """
    files = _files(await reflect(file_containing_symbol=symbol))
    assert files["grpc_health/v1/health.proto"].package == "grpc.health.v1"


async def test_reflection_describes_itself(reflect: Any) -> None:
    """
    Each version knows its own contract, which tools fetch when they describe all that is listed.
    """
    for name in (reflection.V1, reflection.V1ALPHA):
        (file,) = _files(await reflect(file_containing_symbol=name)).values()
        assert f"{file.package}.{file.service[0].name}" == name
        assert file.service[0].method[0].input_type.startswith(f".{file.package}.")


def _loaded(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(list(files)):
        pool.Add(file)
    return pool


async def test_reflection_sends_dependencies_along(reflect: Any) -> None:
    """
    A file comes with all that it imports: a tool can use the answer without asking again.
    """
    files = _files(await reflect(file_by_filename="google/rpc/error_details.proto"))
    assert "google/protobuf/duration.proto" in files
    message = _loaded(files.values()).FindMessageTypeByName("google.rpc.RetryInfo")
    delay = message.fields_by_name["retry_delay"].message_type
    assert delay is not None
    assert delay.full_name == "google.protobuf.Duration"


async def test_reflection_does_not_know_everything(reflect: Any) -> None:
    """
    Unknown names are an error in the answer, and the stream goes on.
    """
    for question in ({"file_containing_symbol": "no.Such"}, {"file_by_filename": "no/such.proto"}):
        assert (await reflect(**question)).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_health_over_http(database: _Database) -> None:
    """
    /livez and /readyz say what the health of "" and of the services say, and why not; metrics are beside them.
    """
    metrics = Metrics("services.test", "grpcio")
    state = health.Health(metrics)
    state.depends_on("database", database.ping, interval=0.02)
    address = _free()
    with metrics.serve(address, state):
        assert await _got(address, "livez") == (200, "ok")
        assert await _got(address, "readyz") == (503, "starting")
        async with state.watch_dependencies():
            assert await _got(address, "readyz") == (200, "ok")
            await database.stop()
            await eventually(state.down)
            assert await _got(address, "livez") == (200, "ok")
            assert await _got(address, "readyz") == (503, "waiting for database")
            await database.start()
            await eventually(lambda: not state.down())
            assert await _got(address, "readyz") == (200, "ok")
            state.drain()
            assert await _got(address, "livez") == await _got(address, "readyz") == (503, "draining")
        assert "modelyard_dependency_up" in (await _got(address, "metrics"))[1]


async def test_liveness_notices_a_blocked_event_loop() -> None:
    """
    While something blocks the event loop, /livez says so; afterwards it is well again.
    """
    metrics, state, address = Metrics("services.test", "grpcio"), health.Health(blocked_after=0.2), _free()
    answers: list[tuple[int, str]] = []
    with metrics.serve(address, state):
        async with state.watch_dependencies():
            asking = threading.Timer(0.5, lambda: answers.append(_get(f"http://{address}/livez")))
            asking.start()
            # Blocks the event loop until the answer is there.
            asking.join()
            await eventually(lambda: state.not_alive() == "")
            assert await _got(address, "livez") == (200, "ok")
    ((status, why),) = answers
    assert status == 503
    assert "the event loop has been blocked" in why


async def _got(address: Address, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(_get, f"http://{address}/{path}")


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own page
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


def _free() -> Address:
    return Address("127.0.0.1", free_port())
