"""
The whole suite under TLS, as `make run TLS=on` starts it.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc

import modelyard
from embedded import handshake, suite
from embedded.__main__ import welcome
from embedded.authority import Authority
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from modelyard.cli.main import main
from modelyard.registry.v1 import models_pb2, versions_pb2
from services.chassis.settings.tls import TlsFiles

pytestmark = pytest.mark.own_suite
PARENT = "namespaces/default"
#: How often all certificates are renewed; `make drill-tls` asks for more.
TURNS = int(os.environ.get("MODELYARD_DRILL_RENEWALS", "2"))
_RENEWED = "the certificate of this service was renewed"


@pytest.fixture(scope="module")
def secure() -> Iterator[Stack]:
    """
    A suite under TLS.
    """
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0, tls=True)) as stack:
        yield stack
        # Its data goes with the run: writing it down in good order takes seconds.
        stack.kill("s3")


@pytest.fixture(scope="module")
def ca(secure: Stack) -> Path:
    """
    What clients have to be given.
    """
    assert secure.authority is not None
    return secure.authority.certificate


@pytest.fixture
def client(secure: Stack, ca: Path) -> Iterator[modelyard.Client]:
    with modelyard.connect(secure.gateway, ca_file=ca) as yard:
        yield yard


def make(yard: modelyard.Client, model_id: str, file: Path) -> str:
    """
    A model with a READY version of that file: the registry calls the asset service for it.
    """
    asset = yard.upload_file(file)
    model = yard.models.CreateModel(
        models_pb2.CreateModelRequest(parent=PARENT, model_id=model_id, model=models_pb2.Model(owner="ann"))
    )
    artifact = versions_pb2.Artifact(path=file.name, sha256=asset.sha256, size_bytes=asset.size_bytes)
    draft = versions_pb2.Version(artifacts=[artifact])
    made = yard.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=model.name, version=draft))
    done = yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
    assert done.state == versions_pb2.Version.STATE_READY
    return model.name


def level(yard: modelyard.Client, name: str) -> str:
    """
    Where the answer to a read came from.
    """
    _, call = yard.models.GetModel.with_call(models_pb2.GetModelRequest(name=name))
    return str(dict(call.trailing_metadata())["x-cache"])


def until(condition: Callable[[], object], what: str) -> None:
    """
    Wait for *condition*, for a while.
    """
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def test_the_main_job(client: modelyard.Client, tmp_path: Path) -> None:
    """
    Bytes go in and out, a version of them becomes READY, it is searched for, and reads come from the cache, which
    follows the changes of the registry: an update is seen at once.
    """
    file = tmp_path / "weights"
    file.write_bytes(b"weights" * 100_000)
    name = make(client, "mine", file)
    asset = client.upload_file(file)
    client.download_file(asset, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    found = client.models.SearchModels(models_pb2.SearchModelsRequest(parent=PARENT, query="mine")).models
    assert [each.name for each in found] == [name]
    until(lambda: level(client, name) == "near", "nothing is kept")
    model = models_pb2.Model(name=name, owner="bob")
    client.models.UpdateModel(models_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=["owner"])))
    assert client.models.GetModel(models_pb2.GetModelRequest(name=name)).owner == "bob"


def test_json_and_bytes_over_https(secure: Stack, client: modelyard.Client, ca: Path, tmp_path: Path) -> None:
    """
    What is plain HTTP otherwise is HTTPS: JSON, the page, and assets.
    """
    file = tmp_path / "text"
    file.write_text("over https")
    asset = client.upload_file(file)
    context = handshake.context(ca)

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"https://{secure.gateway}{path}", context=context, timeout=30) as answer:
            found: bytes = answer.read()
            return found

    assert "models" in json.loads(get(f"/v1/{PARENT}/models"))
    assert b"<html" in get("/")
    assert get(f"/assets/{asset.sha256}") == b"over https"


def test_what_the_welcome_says_works(
    secure: Stack, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The commands of `modelyard` that are printed at the start do what they say, `modelyard top` among them.
    """
    lines = welcome(secure, secure.settings.state, 1.0).splitlines()
    assert any(f"https://{secure.gateway}/" in line for line in lines)
    (listing,) = (line for line in lines if "models list" in line)
    assert main(shlex.split(listing)[1:]) == 0
    (top,) = (line for line in lines if line.endswith("modelyard top"))
    name, _, value = shlex.split(top)[0].partition("=")
    monkeypatch.setenv(name, value)
    capfd.readouterr()
    assert main(["top", "--once", "--interval", "0.2", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert {each["service"] for each in shown["services"]} == {"registry", "cache", "cdn", "doors"}
    assert main(["--target", secure.gateway, "models", "list"]) == 6
    assert "--ca-file" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["registry", "cache", "cdn"])
def test_services_are_for_each_other(secure: Stack, name: str, tmp_path: Path) -> None:
    """
    A service's port takes a certificate of the authority, and neither plain text nor a stranger's.
    """
    service = secure.services[name]
    (host, port) = service.addresses[0]
    assert service.tls is not None
    suite.serving(f"{host}:{port}", service.health, service.tls)
    ca = service.tls.authority
    stranger = Authority(tmp_path).issue("stranger")
    for refused in (
        grpc.insecure_channel(f"{host}:{port}"),
        grpc.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials(ca.read_bytes())),
        grpc.secure_channel(
            f"{host}:{port}",
            grpc.ssl_channel_credentials(ca.read_bytes(), stranger.key.read_bytes(), stranger.certificate.read_bytes()),
        ),
    ):
        with refused as channel:
            call: Any = health_pb2_grpc.HealthStub(channel).Check
            with pytest.raises(grpc.RpcError) as error:
                call(health_pb2.HealthCheckRequest(), timeout=20)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_doors_are_for_the_gateway(secure: Stack, tmp_path: Path) -> None:
    """
    The doors' port takes a certificate of the authority, and neither plain text nor a stranger's.
    """
    service = secure.services["doors"]
    (host, port) = service.addresses[0]
    assert service.tls is not None
    suite.serving_http(host, port, service.tls)
    stranger = Authority(tmp_path).issue("stranger")
    for refused in (None, replace(stranger, authority=service.tls.authority)):
        with pytest.raises((OSError, http.client.HTTPException)):
            suite.serving_http(host, port, refused)


def test_everything_is_renewed_under_calls(secure: Stack, ca: Path, tmp_path: Path) -> None:
    """
    All certificates are renewed, again and again, while clients read and write over old connections and new ones,
    through every service. All of them come to be shown, the registry and the cache come to use theirs for calls, and no
    call fails.
    """
    assert secure.authority is not None
    enough, done = threading.Event(), [0, 0]
    names = ["gateway", *secure.services]
    ports = {"gateway": int(secure.gateway.rpartition(":")[2])}
    ports |= {name: each.addresses[0][1] for name, each in secure.services.items()}
    own = {name: secure.authority.folder / f"{name}.pem" for name in names}
    files = secure.services["cache"].tls

    def work(number: int) -> None:
        with modelyard.connect(secure.gateway, ca_file=ca) as yard:
            while not enough.wait(0.3):
                file = tmp_path / f"{number}-{done[number]}"
                file.write_text(file.name)
                name = make(yard, f"renewed-{file.name}", file)
                with modelyard.connect(secure.gateway, ca_file=ca, options=[_ALONE]) as fresh:
                    fresh.models.GetModel(models_pb2.GetModelRequest(name=name))
                done[number] += 1

    def shown() -> bool:
        client = handshake.context(ca, files)
        return all(handshake.shake(ports[name], client).serial == handshake.serial(own[name]) for name in names)

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work, number) for number in (0, 1)]
        try:
            for turn in range(1, TURNS + 1):
                for name in names:
                    secure.authority.issue(name)
                until(shown, "an old certificate is shown")
                until(partial(_used, secure, turn), "an old certificate is used")
                before = list(done)
                until(partial(_grown, done, before), "no calls")
        finally:
            enough.set()
        for each in working:
            each.result(60)
    print(f"{TURNS} renewals of {len(names)} certificates, {sum(done) * 6} calls, none failed")  # noqa: T201


def test_another_authority(secure: Stack, ca: Path, tmp_path: Path) -> None:
    """
    The authority changes as docs/operations/keys.md says: both are trusted, then certificates are of the new one, then
    the old one is trusted no more. No call fails, and a certificate of the old one is refused in the end.
    """
    assert secure.authority is not None
    first, second = secure.authority, Authority(secure.settings.state / "tls-second")
    files, enough, calls = first.issue("stranger"), threading.Event(), [0]
    renewals = 1 + _log(secure, "registry").count(_RENEWED)
    before, after = first.certificate.read_bytes(), second.issue("any").authority.read_bytes()

    def work() -> None:
        while not enough.wait(0.2):
            with modelyard.connect(secure.gateway, ca_file=ca, options=[_ALONE]) as fresh:
                file = tmp_path / f"file-{calls[0]}"
                file.write_text(file.name)
                fresh.models.GetModel(models_pb2.GetModelRequest(name=make(fresh, f"signed-{file.name}", file)))
            calls[0] += 1

    with modelyard.connect(secure.gateway, ca_file=ca) as yard:
        yard.models.CreateModel(
            models_pb2.CreateModelRequest(parent=PARENT, model_id="lasting", model=models_pb2.Model())
        )
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        try:
            _move(ca, before + after)
            _noticed(secure, renewals)
            for name in ("gateway", *secure.services):
                made = second.issue(name)
                _move(first.folder / f"{name}.key", made.key.read_bytes())
                _move(first.folder / f"{name}.pem", made.certificate.read_bytes())
            _noticed(secure, renewals + 1)
            _move(ca, after)
            _noticed(secure, renewals + 2)
            seen = calls[0]
            until(lambda: calls[0] > seen + 2, "no calls")
        finally:
            enough.set()
        working.result(60)
    with modelyard.connect(secure.gateway, ca_file=ca) as yard:
        until(lambda: level(yard, f"{PARENT}/models/lasting") == "near", "the cache does not follow the registry")
    for service in secure.services.values():
        until(partial(_refused, service, files), f"{service.name} takes a certificate of the old authority")


def _noticed(secure: Stack, times: int) -> None:
    """
    Wait until services use new files for their own calls. Envoy, at the gateway and under the services, is faster.
    """
    until(partial(_used, secure, times), "new files are not noticed")
    time.sleep(1)


def _refused(service: suite.Service, files: TlsFiles) -> bool:
    host, port = service.addresses[0]
    try:
        suite.serving(f"{host}:{port}", service.health, files)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def _move(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.replace(path)


def _used(secure: Stack, turn: int) -> bool:
    return all(_log(secure, name).count(_RENEWED) >= turn for name in ("registry", "cache"))


def _log(secure: Stack, name: str) -> str:
    return (secure.settings.state / "log" / f"{name}.log").read_text()


def _grown(done: list[int], before: list[int]) -> bool:
    return all(now > then + 1 for now, then in zip(done, before, strict=True))


#: Not the connection of another client of this process.
_ALONE = ("grpc.use_local_subchannel_pool", 1)
