"""
What the client adds to every call, and what it makes of answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import modelyard
from modelyard.cdn.v1 import assets_pb2
from modelyard.registry.v1 import imports_pb2, models_pb2, versions_pb2
from tests.client.probe import Probe, probing

GET = models_pb2.GetModelRequest(name="namespaces/default/models/m")
CREATE = models_pb2.CreateModelRequest(parent="namespaces/default", model_id="m")
CREATE_NOTHING = models_pb2.CreateModelRequest()

#: Makes one call with a client of one of the two kinds: stub, method, request, and what else the call is given.
Call = Callable[..., Any]


@pytest.fixture
def probe() -> Iterator[Probe]:
    """
    A server that remembers.
    """
    with probing() as running:
        yield running


@pytest.fixture(params=["threads", "asyncio"])
def connected(request: pytest.FixtureRequest) -> Callable[..., tuple[Call, Callable[[], int]]]:
    """
    Connects a client of either kind; gives how to call with it, and how to ask for its revision.
    """

    def with_threads(*args: Any, **kwargs: Any) -> tuple[Call, Callable[[], int]]:
        yard = modelyard.connect(*args, **kwargs)
        request.addfinalizer(yard.close)
        return lambda stub, method, message, **more: getattr(getattr(yard, stub), method)(
            message, **more
        ), lambda: yard.revision

    def with_asyncio(*args: Any, **kwargs: Any) -> tuple[Call, Callable[[], int]]:
        runner = asyncio.Runner()

        async def make() -> modelyard.aio.Client:
            return modelyard.aio.connect(*args, **kwargs)

        yard = runner.run(make())

        def call(stub: str, method: str, message: Any, **more: Any) -> Any:
            async def go() -> Any:
                return await getattr(getattr(yard, stub), method)(message, **more)

            return runner.run(go())

        def close() -> None:
            runner.run(yard.close())
            runner.close()

        request.addfinalizer(close)
        return call, lambda: yard.revision

    return with_threads if request.param == "threads" else with_asyncio


def test_what_goes_along(probe: Probe, connected: Any) -> None:
    """
    A call carries the token, a request id of its own and the default deadline; what the caller gives wins.
    """
    call, _ = connected(probe.target, "secret", deadline=7.0)
    call("models", "GetModel", GET)
    call("models", "GetModel", GET, timeout=100, metadata=(("x-request-id", "mine"), ("authorization", "Basic x")))
    (_, first, first_left), (_, second, second_left) = probe.calls
    assert first["authorization"] == "Bearer secret"
    assert len(first["x-request-id"]) == 32
    assert "x-min-revision" not in first
    assert first_left is not None
    assert 5 < first_left <= 7.1
    assert (second["authorization"], second["x-request-id"]) == ("Basic x", "mine")
    assert second_left is not None
    assert second_left > 90


def test_streams_have_no_deadline(probe: Probe) -> None:
    """
    Streams last as long as they last; they carry the same metadata.
    """
    with modelyard.connect(probe.target, "secret") as yard:
        list(yard.assets.Download(assets_pb2.DownloadRequest()))
        yard.assets.Upload(iter([assets_pb2.UploadRequest()]))
        list(yard.imports.ImportModels(iter([imports_pb2.ImportModelsRequest()])))
    assert len(probe.calls) == 3
    for _, metadata, left in probe.calls:
        assert metadata["authorization"] == "Bearer secret"
        assert metadata["x-request-id"]
        assert left is None


async def test_streams_have_no_deadline_in_asyncio(probe: Probe) -> None:
    """
    As with threads.
    """
    async with modelyard.aio.connect(probe.target, "secret") as yard:
        assert [message async for message in yard.assets.Download(assets_pb2.DownloadRequest())]
        await yard.assets.Upload(iter([assets_pb2.UploadRequest()]))
        assert [each async for each in yard.imports.ImportModels(iter([imports_pb2.ImportModelsRequest()]))]
    assert [left for _, _, left in probe.calls] == [None] * 3
    assert {metadata["authorization"] for _, metadata, _ in probe.calls} == {"Bearer secret"}


def test_the_newest_revision_goes_along(probe: Probe, connected: Any) -> None:
    """
    Once an answer has told its revision, calls to the same service ask for nothing older; a lower one changes nothing.
    Other services count on their own.
    """
    call, revision = connected(probe.target)
    probe.revision = 41
    call("models", "CreateModel", CREATE)
    probe.revision = 7
    call("models", "GetModel", GET)
    call("versions", "GetVersion", versions_pb2.GetVersionRequest())
    call("assets", "GetAsset", assets_pb2.GetAssetRequest())
    assert [metadata.get("x-min-revision") for _, metadata, _ in probe.calls] == [None, "41", "41", None]
    assert revision() == 41


def test_a_service_that_was_set_back_is_believed(probe: Probe, connected: Any) -> None:
    """
    Where the newest revision seen is no more, one call fails and says so; the next asks for what there is. Details that
    say nothing of the kind change nothing.
    """
    call, revision = connected(probe.target)
    probe.revision = 41
    call("models", "GetModel", GET)
    for details, left in (
        (b"REVISION_NOT_REACHED", 41),
        (_lost("OTHER", 12), 41),
        (_lost("REVISION_NOT_REACHED", 12), 12),
    ):
        probe.failures.append(grpc.StatusCode.FAILED_PRECONDITION)
        probe.details = details
        with pytest.raises(grpc.RpcError):
            call("models", "GetModel", GET)
        assert revision() == left
    probe.revision = 13
    call("models", "GetModel", GET)
    assert [metadata.get("x-min-revision") for _, metadata, _ in probe.calls] == [None, "41", "41", "41", "12"]
    assert revision() == 13


def _lost(reason: str, newest: int) -> bytes:
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, metadata={"revision": str(newest)}))
    return bytes(status.SerializeToString())


def test_an_import_counts_too(probe: Probe) -> None:
    """
    The revision of a stream's trailer is remembered.
    """
    probe.revision = 5
    with modelyard.connect(probe.target) as yard:
        list(yard.imports.ImportModels(iter([imports_pb2.ImportModelsRequest()])))
        yard.models.GetModel(GET)
    assert probe.calls[1][1]["x-min-revision"] == "5"


def test_reads_are_retried(probe: Probe, connected: Any) -> None:
    """
    A read that finds nobody is made again, with the same request id.
    """
    call, _ = connected(probe.target)
    probe.failures.extend([grpc.StatusCode.UNAVAILABLE] * 2)
    call("models", "GetModel", GET)
    assert len({metadata["x-request-id"] for _, metadata, _ in probe.calls}) == 1
    assert len(probe.calls) == 3


@pytest.mark.parametrize(
    ("stub", "method", "request_", "status"),
    [
        ("models", "CreateModel", CREATE, grpc.StatusCode.UNAVAILABLE),
        ("models", "GetModel", GET, grpc.StatusCode.INTERNAL),
    ],
)
def test_nothing_else_is_retried(
    probe: Probe, connected: Any, stub: str, method: str, request_: Any, status: grpc.StatusCode
) -> None:
    """
    A write is not made twice, and an error that is not UNAVAILABLE is told at once.
    """
    call, _ = connected(probe.target)
    probe.failures.append(status)
    with pytest.raises(grpc.RpcError) as caught:
        call(stub, method, request_)
    assert modelyard.explain(caught.value).code is status
    assert len(probe.calls) == 1


def test_a_real_registry_tells_its_revision(yard: modelyard.Client) -> None:
    """
    A write moves the client's revision on, and the next read reflects it.
    """
    created = yard.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/default", model_id="seen"))
    assert yard.revision >= created.revision > 0
    assert yard.models.GetModel(models_pb2.GetModelRequest(name=created.name)) == created


def test_explain(yard: modelyard.Client) -> None:
    """
    A failed call tells its status, its reason, the resource, the fields and the request's id.
    """
    name = "namespaces/default/models/nobody"
    with pytest.raises(grpc.RpcError) as caught:
        yard.models.GetModel(models_pb2.GetModelRequest(name=name))
    problem = modelyard.explain(caught.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert problem.metadata == {"resource": name}
    with pytest.raises(grpc.RpcError) as caught:
        yard.models.CreateModel(CREATE_NOTHING, metadata=(("x-request-id", "abc"),))
    problem = modelyard.explain(caught.value)
    assert {violation.field for violation in problem.violations} == {"parent", "model_id"}
    assert problem.request_id == "abc"


def test_explain_without_details(probe: Probe) -> None:
    """
    A status that says nothing more is explained with what there is.
    """
    probe.failures.append(grpc.StatusCode.PERMISSION_DENIED)
    with modelyard.connect(probe.target) as yard, pytest.raises(grpc.RpcError) as caught:
        yard.models.GetModel(GET)
    assert str(modelyard.explain(caught.value)) == "PERMISSION_DENIED: as told"


@pytest.mark.parametrize("target", ["", "http://", "ftp://a:1", "https:///"])
def test_targets_that_are_none(target: str) -> None:
    """
    What is no address is refused when connecting.
    """
    for connect in (modelyard.connect, modelyard.aio.connect):
        with pytest.raises(ValueError, match="a target is"):
            connect(target)


def test_plain_text_takes_no_credentials() -> None:
    """
    Credentials for TLS with an http:// address are a mistake, not ignored.
    """
    with pytest.raises(ValueError, match="not TLS"):
        modelyard.connect("http://127.0.0.1:1", credentials=grpc.ssl_channel_credentials())


def test_http_addresses(probe: Probe) -> None:
    """
    An http:// address, as browsers show it, does.
    """
    with modelyard.connect(f"http://{probe.target}/") as yard:
        yard.models.GetModel(GET)
    assert len(probe.calls) == 1


def test_a_closed_client(probe: Probe) -> None:
    """
    A call of any kind with a closed client is a ValueError; gRPC's own channel would end the process.
    """
    with modelyard.connect(probe.target) as yard:
        yard.models.GetModel(GET)
    calls: list[Callable[[], Any]] = [
        lambda: yard.models.GetModel(GET),
        lambda: yard.models.CreateModel(CREATE),
        lambda: list(yard.assets.Download(assets_pb2.DownloadRequest())),
        lambda: yard.assets.Upload(iter([assets_pb2.UploadRequest()])),
        lambda: list(yard.imports.ImportModels(iter([imports_pb2.ImportModelsRequest()]))),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()
    assert len(probe.calls) == 1
