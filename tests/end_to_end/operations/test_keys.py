"""
docs/operations/keys.md: what is rotated, how, and whether it works without a restart.

What the page says of tokens and certificates is tested where it is built: `services/chassis/tests/test_access.py`,
`gateway/tests/test_access.py`, `tests/end_to_end/test_tls.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import modelyard
from embedded.postgres import SERVICE_ROLE
from modelyard.cdn.v1 import assets_pb2, assets_pb2_grpc
from tests.drills.rolling.load import Load
from tests.end_to_end.operations.estate import FIRST, Estate, run

_RATE = 40
OTHER_ROLE = "modelyard_service_b"
NEW = "new-password"
KEYS = {"accessKey": "new0access0key", "secretKey": "new-secret-key"}
_CREDENTIALS = f"[default]\naws_access_key_id = {KEYS['accessKey']}\naws_secret_access_key = {KEYS['secretKey']}\n"
pytestmark = [pytest.mark.alone, pytest.mark.own_suite]


def test_a_database_password_in_place(estate: Estate) -> None:
    """
    A changed password leaves open connections alone. A process that has the old one, and loses its connections, is
    UNAVAILABLE, also when the file has the new one: it is read at the start.
    """
    host, port = estate.stack.services["cdn"].addresses[0]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        _ask(channel)
        estate.sql(f"ALTER ROLE {SERVICE_ROLE} PASSWORD 'second-password'")
        Path(estate.database_password_file).write_text("second-password")
        _ask(channel)
        estate.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{SERVICE_ROLE}'")  # noqa: S608
        with pytest.raises(grpc.RpcError) as caught:
            _ask(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    estate.replace({f"{name}{suffix}": {} for name in ("registry", "cdn") for suffix in ("", "-2")})
    estate.settle()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        _ask(channel)


def _ask(channel: grpc.Channel) -> None:
    assets = assets_pb2_grpc.AssetServiceStub(channel)
    assets.ListAssets(assets_pb2.ListAssetsRequest(page_size=1), timeout=10)


@pytest.mark.skipif(
    not (shutil.which("valkey-cli") or shutil.which("redis-cli")),
    reason="neither valkey-cli nor redis-cli is installed: `apt install redis-tools` on Debian and Ubuntu",
)
def test_all_that_is_read_at_the_start(estate: Estate, tmp_path: Path) -> None:
    """
    The database's password (by a second role), Valkey's and the keys of the bucket change as the page says: both are
    taken, instances roll, the old one goes. No call fails, and nothing that is old opens anything afterwards.
    """
    old, new = estate.valkey_password_file, estate.secret("new", NEW)
    keys = estate.secret("access-key", KEYS["accessKey"]), estate.secret("secret-key", KEYS["secretKey"])
    with Load(estate.stack.gateways, _RATE) as load:
        _second_role(estate)
        run("keys.md", "both", NODES=estate.nodes, OLD=old, NEW=new)
        first = _allowed(estate)
        _allow(estate, [*first, KEYS])
        estate.roll(
            registry={
                "MODELYARD_DATABASE_URL": estate.stack.postgres.url(user=OTHER_ROLE),
                "MODELYARD_DATABASE_PASSWORD_FILE": new,
                "MODELYARD_DATABASE_REPLICA_URLS": "",
            },
            cache={"MODELYARD_VALKEY_PASSWORD_FILE": new},
            cdn={"MODELYARD_S3_ACCESS_KEY_FILE": keys[0], "MODELYARD_S3_SECRET_KEY_FILE": keys[1]},
            gateway={"AWS_SHARED_CREDENTIALS_FILE": estate.secret("credentials", _CREDENTIALS)},
        )
        assert _sessions(estate, SERVICE_ROLE) == 0
        estate.sql(f"DROP OWNED BY {SERVICE_ROLE}", "modelyard")
        run("keys.md", "one", NODES=estate.nodes, NEW=new)
        estate.role, estate.valkey_password = OTHER_ROLE, NEW
        _allow(estate, [KEYS])
        _bytes_come_back(estate, tmp_path / "file")
    assert not load.outcome.failed, load.outcome.failed[:10]
    assert estate.metric("cache", "modelyard_cache_breaker_opened_total") == [0, 0]
    for node in estate.cluster.nodes:
        once = redis.Redis(port=node.port, password=FIRST, retry=Retry(NoBackoff(), 0))
        with once as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        with redis.Redis(port=node.port, password=NEW) as client:
            assert client.info("replication").get("master_link_status", "up") == "up"


def _second_role(estate: Estate) -> None:
    settings = {"MODELYARD_DATABASE_URL": estate.stack.postgres.url(), "MODELYARD_DATABASE_SERVICE_ROLE": OTHER_ROLE}
    command = [sys.executable, "-m", "services.registry.migrate"]
    subprocess.run(command, env={"PATH": "", **settings}, check=True, timeout=60)
    estate.sql(f"ALTER ROLE {OTHER_ROLE} PASSWORD '{NEW}'")


def _sessions(estate: Estate, role: str) -> int:
    found = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND datname = 'modelyard'"  # noqa: S608
    return int(estate.sql(found))


def _bytes_come_back(estate: Estate, file: Path) -> None:
    file.write_text("rotated")
    for gateway in estate.stack.gateways:
        with modelyard.connect(gateway) as yard:
            asset = yard.upload_file(file)
        with urllib.request.urlopen(f"http://{gateway}/assets/{asset.sha256}", timeout=10) as answer:
            assert answer.read() == b"rotated"


def _allowed(estate: Estate) -> list[dict[str, str]]:
    identities = json.loads((estate.state / "secrets" / "s3.json").read_text())
    found: list[dict[str, str]] = identities["identities"][0]["credentials"]
    return found


def _allow(estate: Estate, pairs: list[dict[str, str]]) -> None:
    """
    Have the S3 server take these keys and no others.
    """
    config = estate.state / "secrets" / "s3.json"
    identities = json.loads(config.read_text())
    identities["identities"][0]["credentials"] = pairs
    changed = config.with_suffix(".new")
    changed.write_text(json.dumps(identities))
    changed.replace(config)
    os.kill(estate.stack.pid("s3"), signal.SIGHUP)
