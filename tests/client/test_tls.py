"""
The client and TLS: files in place of credentials, for both kinds of clients and on the command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import modelyard
from embedded.authority import Authority
from modelyard.cli.main import main
from modelyard.registry.v1 import models_pb2
from modelyard.registry.v1.models_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from services.chassis.serving.tls import Identity, server_credentials
from services.chassis.settings.tls import TlsFiles

GET = models_pb2.GetModelRequest(name="namespaces/default/models/m")


class Models(ModelServiceServicer):
    """
    Has every model.
    """

    def GetModel(self, request: models_pb2.GetModelRequest, _context: Any) -> models_pb2.Model:  # noqa: N802
        return models_pb2.Model(name=request.name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> TlsFiles:
    return authority.issue("client")


@pytest.fixture(scope="module")
def target(authority: Authority) -> Iterator[str]:
    """
    A server that asks for certificates.
    """
    server = grpc.server(ThreadPoolExecutor(2))
    add_ModelServiceServicer_to_server(Models(), server)  # type: ignore[abstract]
    credentials = server_credentials(Identity(authority.issue("server")))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_files_make_tls(target: str, own: TlsFiles) -> None:
    """
    A target without a scheme is called with TLS, with the client's own certificate.
    """
    files: dict[str, Any] = {"ca_file": own.authority, "cert_file": own.certificate, "key_file": own.key}
    with modelyard.connect(target, **files) as yard:
        assert yard.models.GetModel(GET).name == GET.name

    async def call() -> str:
        async with modelyard.aio.connect(f"https://{target}", **files) as yard:
            return (await yard.models.GetModel(GET)).name

    assert asyncio.run(call()) == GET.name


def test_bad_files_are_named(target: str, own: TlsFiles, tmp_path: Path) -> None:
    """
    What is not PEM, not there or not whole is told before any call.
    """
    encrypted = tmp_path / "encrypted"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for connect in (modelyard.connect, modelyard.aio.connect):
        with pytest.raises(ValueError, match=r"client\.key holds no certificate in PEM"):
            connect(target, ca_file=own.key)
        with pytest.raises(ValueError, match="encrypted holds no unencrypted private key in PEM"):
            connect(target, ca_file=own.authority, cert_file=own.certificate, key_file=encrypted)
        with pytest.raises(ValueError, match="a certificate and its key go together"):
            connect(target, cert_file=own.certificate)
        with pytest.raises(ValueError, match="credentials and files for TLS are given"):
            connect(target, ca_file=own.authority, credentials=grpc.ssl_channel_credentials())
        with pytest.raises(ValueError, match="is not TLS"):
            connect(f"http://{target}", ca_file=own.authority)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            connect(target, ca_file="nowhere")


def test_the_command_line(
    target: str, own: TlsFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    Options and variables name the files; the error of an untrusted server differs from that of an unreachable one.
    """
    get = ["models", "get", "m"]
    pair = ["--cert-file", str(own.certificate), "--key-file", str(own.key)]
    assert main(["--target", target, "--ca-file", str(own.authority), *pair, *get]) == 0
    monkeypatch.setenv("MODELYARD_CA_FILE", str(own.authority))
    monkeypatch.setenv("MODELYARD_CERT_FILE", str(own.certificate))
    monkeypatch.setenv("MODELYARD_KEY_FILE", str(own.key))
    assert main(["--target", target, *get]) == 0
    stranger = Authority(tmp_path).issue("stranger").authority
    capsys.readouterr()
    assert main(["--target", target, "--ca-file", str(stranger), *get]) == 6
    said = capsys.readouterr().err
    assert f"TLS with {target} failed" in said
    assert "CERTIFICATE_VERIFY_FAILED" in said
    with pytest.raises(SystemExit) as wrong:
        main(["--target", target, "--ca-file", str(own.key), *get])
    assert wrong.value.code == 2
    assert "holds no certificate in PEM" in capsys.readouterr().err
