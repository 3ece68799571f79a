"""
docs/operations/keys.md and scaling.md under load: rotating credentials with a rolling update, adding a read replica
that later dies, adding and removing a shard of Valkey. No call fails.

The pages' commands run as they are. Those for Valkey need valkey-cli or redis-cli (`apt install redis-tools` on Debian
and Ubuntu). Tokens and certificates: `services/chassis/tests/test_access.py`, `gateway/tests/test_access.py`,
`tests/end_to_end/test_tls.py`. A longer rolling update: `make drill-rolling`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import modelyard
from embedded.parts import free_port
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.valkey import Valkey
from modelyard.cache.v1 import cache_pb2
from modelyard.registry.v1 import namespaces_pb2
from services.registry.tests.server import running
from tests.drills.rolling.load import Load, Outcome
from tests.end_to_end.operations.estate import FIRST, Estate, run, until

#: Calls per second, and calls before and after a step.
_RATE, _CALLS = 10, 10
OTHER_ROLE = "modelyard_service_b"
NEW = "new-password"
KEYS = {"accessKey": "new0access0key", "secretKey": "new-secret-key"}
_CREDENTIALS = f"[default]\naws_access_key_id = {KEYS['accessKey']}\naws_secret_access_key = {KEYS['secretKey']}\n"
_REPLICA = "postgresql-replica"
# What each of three primaries gives to a fourth: the page's example, and here they have some more slots.
_SHARES = {0: "4096-5460", 1: "9557-10922", 2: "15019-16383"}
# Its namespace is in slot 4478.
_NAMESPACE = "shared"
_KEYS = [f"kept-{number}" for number in range(300)]
_HAS_CLI = bool(shutil.which("valkey-cli") or shutil.which("redis-cli"))
pytestmark = [pytest.mark.own_suite, pytest.mark.timeout(300)]


async def test_a_database_password_changes_in_place(estate: Estate) -> None:
    """
    A changed password does not affect open connections. A process that has the old one and loses its connections is
    UNAVAILABLE, even though the file has the new one: it is read at startup. One that starts afterwards works.
    """
    file = Path(estate.secret("in-place", "first"))
    estate.sql(f"CREATE ROLE in_place LOGIN PASSWORD 'first' IN ROLE {SERVICE_ROLE}")
    url, password = estate.stack.postgres.url(user="in_place"), {"MODELYARD_DATABASE_PASSWORD_FILE": str(file)}
    request = namespaces_pb2.GetNamespaceRequest(name="namespaces/default")
    async with running(url, **password) as registry:
        await registry.namespaces.GetNamespace(request)
        estate.sql("ALTER ROLE in_place PASSWORD 'second'")
        file.write_text("second")  # noqa: ASYNC240 - a few bytes
        await registry.namespaces.GetNamespace(request)
        estate.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'in_place'")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await registry.namespaces.GetNamespace(request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with running(url, **password) as registry:
        await registry.namespaces.GetNamespace(request)


@dataclass(frozen=True, slots=True)
class Rolled:
    """
    A rolling update that was made under load.

    Args:
        outcome: of the load.
        before, after: the process ids of all parts by name.
        sessions: of the old database role, after the update.
        replica: the read replica that the registries use since then.
    """

    outcome: Outcome
    before: dict[str, int]
    after: dict[str, int]
    sessions: int
    replica: Postgres


@pytest.fixture(scope="module")
def rolled(estate: Estate) -> Rolled:
    """
    Change the database's password (with a second role), Valkey's and the bucket's keys as the page says: accept both,
    roll all instances, revoke the old ones. The registries get a read replica at the same time.
    """
    old, new = estate.valkey_password_file, estate.secret("new", NEW)
    keys = estate.secret("access-key", KEYS["accessKey"]), estate.secret("secret-key", KEYS["secretKey"])
    before = estate.stack.pids()
    with Load(estate.stack.gateways, _RATE) as load:
        load.wait_for_calls(_CALLS)
        _create_second_role(estate)
        replica = estate.stack.postgres.replicate(estate.state / "replica", free_port())
        estate.stack.run(replace(replica.part(fsync="off"), name=_REPLICA, needs=()))
        if _HAS_CLI:
            run("keys.md", "both", NODES=estate.nodes, OLD=old, NEW=new)
        _allow(estate, [*_allowed(estate), KEYS])
        estate.roll(
            registry={
                "MODELYARD_DATABASE_URL": estate.stack.postgres.url(user=OTHER_ROLE),
                "MODELYARD_DATABASE_PASSWORD_FILE": new,
                "MODELYARD_DATABASE_REPLICA_URLS": replica.url(user=OTHER_ROLE),
            },
            cache={"MODELYARD_VALKEY_PASSWORD_FILE": new} if _HAS_CLI else {},
            cdn={"MODELYARD_S3_ACCESS_KEY_FILE": keys[0], "MODELYARD_S3_SECRET_KEY_FILE": keys[1]},
            gateway={"AWS_SHARED_CREDENTIALS_FILE": estate.secret("credentials", _CREDENTIALS)},
        )
        sessions = _sessions(estate, SERVICE_ROLE)
        estate.sql(f"DROP OWNED BY {SERVICE_ROLE}", "modelyard")
        if _HAS_CLI:
            run("keys.md", "one", NODES=estate.nodes, NEW=new)
            estate.valkey_password = NEW
        _allow(estate, [KEYS])
        load.wait_for_calls(_CALLS)
        _check_bytes(estate)
    return Rolled(load.outcome, before, estate.stack.pids(), sessions, replica)


def test_a_rolling_update(rolled: Rolled) -> None:
    """
    Every instance of every service and gateway is replaced: no call fails, and a watcher that resumes where it was
    receives every creation exactly once.
    """
    replaced = [f"{name}{suffix}" for name in ("registry", "cdn", "cache", "gateway") for suffix in ("", "-2")]
    assert not [name for name in replaced if rolled.before[name] == rolled.after[name]]
    assert not rolled.outcome.failed, rolled.outcome.failed[:10]
    assert {rolled.outcome.watched[name] for name in rolled.outcome.created} == {1}


def test_old_credentials_are_not_in_use(rolled: Rolled, estate: Estate) -> None:
    """
    After the rotation no session of the old role is left, and no cache has lost Valkey. Its nodes reject the old
    password, and replicate with the new one.
    """
    assert rolled.sessions == 0
    assert estate.metric("cache", "modelyard_cache_breaker_opened_total") == [0, 0]
    for node in estate.cluster.nodes:
        if _HAS_CLI:
            once = redis.Redis(port=node.port, password=FIRST, retry=Retry(NoBackoff(), 0))
            with once as client, pytest.raises(redis.AuthenticationError):
                client.ping()
        with redis.Redis(port=node.port, password=estate.valkey_password) as client:
            assert client.info("replication").get("master_link_status", "up") == "up"


def test_a_replica_serves_and_dies(rolled: Rolled, estate: Estate) -> None:
    """
    A replica that was copied from the running primary serves the registries that were given it one after the other;
    then it dies while it is still in the settings. No call fails, and the page's metrics show what happens.
    """
    serving, lag = (f'modelyard_database_replica_{name}{{server="replica 1"}}' for name in ("serving", "lag_seconds"))
    with Load(estate.stack.gateways, _RATE, without=["asset"]) as load:
        until(lambda: estate.metric("registry", serving) == [1, 1], "the replica does not serve")
        assert max(estate.metric("registry", lag)) < 5
        sessions = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{OTHER_ROLE}'"  # noqa: S608 - a constant
        assert int(rolled.replica.sql(sessions)) >= 2
        load.wait_for_calls(_CALLS)
        estate.stack.kill(_REPLICA)
        until(lambda: estate.metric("registry", serving) == [0, 0], "a dead replica serves")
        load.wait_for_calls(_CALLS)
    assert not load.outcome.failed, load.outcome.failed[:10]


@pytest.fixture
def new_node(estate: Estate) -> Iterator[Valkey]:
    """
    An empty node, which does not belong to a cluster yet.
    """
    first, port = estate.cluster.nodes[0], free_port()
    own = {"cluster-port": str(free_port()), "cluster-config-file": str(estate.state / f"valkey-{port}.conf")}
    options = {**first.options, **own, "primaryauth": estate.valkey_password}
    node = replace(first, port=port, name=f"valkey-{port}", options=options, password=estate.valkey_password)
    estate.supervisor.start([node.part()])
    yield node
    estate.supervisor.kill(node.name)


@pytest.mark.skipif(not _HAS_CLI, reason="neither valkey-cli nor redis-cli is installed")
def test_a_shard_is_added_and_removed(estate: Estate, new_node: Valkey) -> None:
    """
    A node joins, gets its share of the slots, gives it back and leaves: no call fails, and every value of the key-value
    cache, of which there is no other copy, is found on its new node and afterwards on the old one.
    """
    new = f"127.0.0.1:{new_node.port}"
    old = [f"127.0.0.1:{node.port}" for node in estate.cluster.nodes]
    secret = {"REDISCLI_AUTH": estate.valkey_password}
    with modelyard.connect(estate.stack.gateway) as yard, Load(estate.stack.gateways, _RATE, without=["asset"]) as load:
        entries = [cache_pb2.Entry(key=key, value=key.encode()) for key in _KEYS]
        yard.keyvalue.BatchSet(cache_pb2.BatchSetRequest(namespace=_NAMESPACE, entries=entries))
        run("scaling.md", "join", NEW=new, ANY=old[0], **secret)
        for index, slots in _SHARES.items():
            run("scaling.md", "move", FROM=old[index], TO=new, SLOTS=slots, **secret)
        assert _slots(new_node, estate) == 4096
        assert _count_keys(new_node, estate) > len(_KEYS)
        assert _values(yard) == _KEYS
        load.wait_for_calls(_CALLS)
        for index, slots in _SHARES.items():
            run("scaling.md", "move", FROM=new, TO=old[index], SLOTS=slots, **secret)
        assert _slots(new_node, estate) == 0
        run("scaling.md", "leave", OLD=new, ANY=old[0], **secret)
        assert _values(yard) == _KEYS
        load.wait_for_calls(_CALLS)
    assert not load.outcome.failed, load.outcome.failed[:10]


def _slots(node: Valkey, estate: Estate) -> int:
    with redis.Redis(port=node.port, password=estate.valkey_password, decode_responses=True) as client:
        (me,) = (each for each in client.cluster("nodes").values() if "myself" in each["flags"])
    return sum(int(span[-1]) - int(span[0]) + 1 for span in me["slots"])


def _count_keys(node: Valkey, estate: Estate) -> int:
    with redis.Redis(port=node.port, password=estate.valkey_password) as client:
        return int(client.dbsize())


def _values(yard: modelyard.Client) -> list[str]:
    found = yard.keyvalue.BatchGet(cache_pb2.BatchGetRequest(namespace=_NAMESPACE, keys=_KEYS))
    return [entry.value.decode() for entry in found.entries]


def _create_second_role(estate: Estate) -> None:
    settings = {"MODELYARD_DATABASE_URL": estate.stack.postgres.url(), "MODELYARD_DATABASE_SERVICE_ROLE": OTHER_ROLE}
    command = [sys.executable, "-m", "services.registry.migrate"]
    subprocess.run(command, env={"PATH": "", **settings}, check=True, timeout=60)
    estate.sql(f"ALTER ROLE {OTHER_ROLE} PASSWORD '{NEW}'")


def _sessions(estate: Estate, role: str) -> int:
    found = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND datname = 'modelyard'"  # noqa: S608
    return int(estate.sql(found))


def _check_bytes(estate: Estate) -> None:
    """
    Upload a file and download it, through each gateway.
    """
    file = estate.state / "file"
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
    Make the S3 server accept these keys and no others.
    """
    config = estate.state / "secrets" / "s3.json"
    identities = json.loads(config.read_text())
    identities["identities"][0]["credentials"] = pairs
    changed = config.with_suffix(".new")
    changed.write_text(json.dumps(identities))
    changed.replace(config)
    os.kill(estate.stack.pid("s3"), signal.SIGHUP)
