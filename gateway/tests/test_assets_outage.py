"""
Large downloads and S3 outages: complete bytes or an error, never a truncated file that looks complete.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embedded.parts import Part, free_port
from embedded.s3 import BUCKET, S3
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from gateway.tests import harness
from gateway.tests.conftest import Put

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MIB = 1 << 20
_LARGE = int(os.environ.get("MODELYARD_DRILL_ASSET_MIB", "24")) * _MIB
UNAVAILABLE = {"code": 14, "message": "the store cannot be read at the moment", "details": []}


@dataclass(frozen=True)
class KillableS3:
    """
    A gateway before an S3 server that may be killed.
    """

    edge: harness.Edge
    s3: S3
    part: Part
    supervisor: Supervisor

    def kill(self) -> None:
        """
        Kill the server with -9.
        """
        self.supervisor.kill(self.part.name)

    def revive(self) -> None:
        """
        Start it again, with what it had.
        """
        self.supervisor.start([self.part])


@pytest.fixture
def killable() -> Iterator[KillableS3]:
    with scratch() as state:
        supervisor = Supervisor(state / "log")
        server = S3(state, free_port())
        # Its data are deleted with it: a clean shutdown would only take time.
        part = replace(server.part(), stop_signal=signal.SIGKILL)
        try:
            supervisor.start([part])
            with harness.gateway(server, state / "gateway") as edge:
                yield KillableS3(edge, server, part, supervisor)
        finally:
            supervisor.stop()


def whole(edge: harness.Edge, path: str) -> bytes:
    """
    The bytes at *path*, as soon as the server finds them again after its start.
    """
    for _ in range(100):
        if (answer := edge.ask(path)).status == 200:
            return answer.body
        time.sleep(0.1)
    pytest.fail(f"still {answer.status} after ten seconds")


def test_a_large_asset_arrives_bit_for_bit(edge: harness.Edge, bucket: S3Client) -> None:
    """
    An asset that is larger than all buffers on its way arrives unchanged, with its length.
    """
    data = random.Random(1).randbytes(_LARGE)  # noqa: S311 - any bytes, the same ones in each run
    key = f"assets/{hashlib.sha256(data).hexdigest()}"
    bucket.put_object(Bucket=BUCKET, Key=key, Body=data)
    answer = edge.ask(f"/{key}")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(data)))
    assert hashlib.sha256(answer.body).hexdigest() == key.removeprefix("assets/")


def test_a_download_that_breaks_is_not_a_short_file(killable: KillableS3) -> None:
    """
    S3 dies in the middle of a download: the client sees fewer bytes than were announced, and the gateway goes on.
    """
    client = harness.client(killable.s3)
    path = f"/assets/{'1' * 64}"
    client.put_object(Bucket=BUCKET, Key=path[1:], Body=bytes(64 * _MIB))
    connection = killable.edge.connect()
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.length) == (200, 64 * _MIB)
    answer.read(_MIB)
    killable.kill()
    # It compares with the length that was announced.
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    connection.close()

    assert killable.edge.ask("/healthz").status == 200
    down = killable.edge.ask(path)
    assert (down.status, down.error) == (503, UNAVAILABLE)
    killable.revive()
    assert len(whole(killable.edge, path)) == 64 * _MIB


@pytest.fixture(scope="module")
def without_s3(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Edge]:
    """
    A gateway whose S3 server refuses connections.
    """
    with harness.gateway(S3(s3.state, free_port()), tmp_path_factory.mktemp("without-s3")) as running:
        yield running


@pytest.mark.parametrize("accept", ["", "zstd, gzip"])
@pytest.mark.parametrize("path", [f"/assets/{'0' * 64}", "/static/index.html"])
def test_without_s3_it_says_so(without_s3: harness.Edge, path: str, accept: str) -> None:
    """
    If S3 refuses connections the response is 503 as JSON, not cacheable, and reveals no address.
    """
    answer = without_s3.ask(path, accept_encoding=accept)
    assert (answer.status, answer.error) == (503, UNAVAILABLE)
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-store", "accept-encoding")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert without_s3.ask(path, "HEAD", accept_encoding=accept).status == 503
    assert without_s3.ask(path, accept_encoding=accept, content_type="application/grpc").status == 503


def test_rejected_s3_keys_are_a_server_error(tmp_path: Path, s3: S3, put: Put) -> None:
    """
    With wrong keys the client gets 503 and nothing of what S3 says; the log has its reason.
    """
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = nobody\naws_secret_access_key = a-secret\n")
    environment = {**s3.environment, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}
    with harness.gateway(s3, tmp_path / "gateway", environment) as edge:
        answer = edge.ask(put(b"not for nobody"))
        assert (answer.status, answer.error) == (503, UNAVAILABLE)
    log = (tmp_path / "gateway" / "log" / "gateway.log").read_text()
    assert "S3 answered 403 InvalidAccessKeyId" in log
    assert "a-secret" not in log


def test_the_keys_of_the_machines_owner_are_not_used(
    tmp_path: Path, s3: S3, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    AWS settings in the environment of whoever starts the suite do not reach the embedded gateway.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "mine")
    monkeypatch.setenv("AWS_PROFILE", "work")
    with harness.gateway(s3, tmp_path) as edge:
        assert edge.ask(put(b"with the suite's keys")).status == 200


def test_the_gateway_has_the_keys_from_a_file(s3: S3) -> None:
    """
    The keys are in a file that only its owner reads, and not in the gateway's environment.
    """
    file = Path(s3.environment["AWS_SHARED_CREDENTIALS_FILE"])
    assert file.stat().st_mode & 0o777 == 0o600
    secret = s3.secret_key_file.read_text().strip()
    assert secret in file.read_text()
    assert secret not in "".join(s3.environment.values())
