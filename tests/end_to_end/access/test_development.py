"""
Access control in the embedded run, with the tokens that `modelyard token` mints.
"""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

import modelyard
from embedded.shared import Servers
from embedded.stack import StackSettings
from modelyard.cli.main import main
from modelyard.registry.v1 import models_pb2, versions_pb2

NAME = "namespaces/default/models/mine"


def _level(yard: modelyard.Client) -> str:
    _, call = yard.models.GetModel.with_call(models_pb2.GetModelRequest(name=NAME))
    return str(dict(call.trailing_metadata())["x-cache"])


def test_minted_tokens_do_the_main_job(
    capsys: pytest.CaptureFixture[str], run_servers: Servers, tmp_path: Path
) -> None:
    """
    A version is pushed and finalized by somebody who may not pin: the registry does that itself. Reading is public, and
    writing is not; the cache follows the registry, so that reads are kept.
    """
    settings = StackSettings(state=Path(), gateway_port=0, access="read-public")
    stack = run_servers.stack("access read-public", settings)
    key = stack.settings.state / "access" / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600

    def token(scopes: str) -> str:
        assert main(["token", "--subject", "ann", "--scopes", scopes, "--key", str(key)]) == 0
        return capsys.readouterr().out.strip()

    (tmp_path / "foo").write_bytes(b"foo")
    with modelyard.connect(stack.gateway, token("assets.read assets.write")) as ann:
        asset = ann.upload_file(tmp_path / "foo")
    with modelyard.connect(stack.gateway, token("registry.write,registry.read")) as ann:
        parent, _, model_id = NAME.rpartition("/models/")
        ann.models.CreateModel(
            models_pb2.CreateModelRequest(parent=parent, model_id=model_id, model=models_pb2.Model(owner="me"))
        )
        artifact = versions_pb2.Artifact(path="foo", sha256=asset.sha256, size_bytes=3)
        draft = versions_pb2.Version(artifacts=[artifact])
        made = ann.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=NAME, version=draft))
        done = ann.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made.name))
        assert done.state == versions_pb2.Version.STATE_READY
    host, port = stack.services["cache"].addresses[0]
    with modelyard.connect(f"{host}:{port}") as nobody:
        ends = time.monotonic() + 20
        while _level(nobody) != "near":
            assert time.monotonic() < ends, "nothing is kept"
            time.sleep(0.05)
    with modelyard.connect(stack.gateway) as nobody:
        assert nobody.models.GetModel(models_pb2.GetModelRequest(name=NAME)).name == NAME
        with pytest.raises(grpc.RpcError) as refused:
            nobody.models.DeleteModel(models_pb2.DeleteModelRequest(name=NAME))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
