"""
docs/operations/scaling.md: its commands are run as they are there, under load, and no call fails.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

import modelyard
from embedded.parts import free_port
from embedded.valkey import Valkey
from modelyard.cache.v1 import cache_pb2
from tests.drills.rolling.load import Load
from tests.end_to_end.operations.estate import Estate, run, until

_RATE = 40
# What each of three primaries gives to a fourth: the page's example, and here they have some more slots.
_SHARES = {0: "4096-5460", 1: "9557-10922", 2: "15019-16383"}
# Its namespace is in slot 4478.
_NAMESPACE = "shared"
_KEYS = [f"kept-{number}" for number in range(300)]
pytestmark = [pytest.mark.alone, pytest.mark.own_suite]


@pytest.fixture
def newcomer(estate: Estate) -> Iterator[Valkey]:
    """
    An empty node, which belongs to no cluster yet.
    """
    first, port = estate.cluster.nodes[0], free_port()
    own = {"cluster-port": str(free_port()), "cluster-config-file": str(estate.state / f"valkey-{port}.conf")}
    options = {**first.options, **own, "primaryauth": estate.valkey_password}
    node = replace(first, port=port, name=f"valkey-{port}", options=options, password=estate.valkey_password)
    estate.supervisor.start([node.part()])
    yield node
    estate.supervisor.kill(node.name)


@pytest.mark.skipif(
    not (shutil.which("valkey-cli") or shutil.which("redis-cli")),
    reason="neither valkey-cli nor redis-cli is installed: `apt install redis-tools` on Debian and Ubuntu",
)
def test_a_shard_comes_and_goes(estate: Estate, newcomer: Valkey) -> None:
    """
    A node joins, takes its share of the slots, gives it back and leaves: no call fails, and every value of the
    key-value cache, of which there is no other copy, is found at its new place and back at the old one.
    """
    new = f"127.0.0.1:{newcomer.port}"
    old = [f"127.0.0.1:{node.port}" for node in estate.cluster.nodes]
    secret = {"REDISCLI_AUTH": estate.valkey_password}
    with modelyard.connect(estate.stack.gateway) as yard, Load(estate.stack.gateways, _RATE, without=["asset"]) as load:
        entries = [cache_pb2.Entry(key=key, value=key.encode()) for key in _KEYS]
        yard.keyvalue.BatchSet(cache_pb2.BatchSetRequest(namespace=_NAMESPACE, entries=entries))
        run("scaling.md", "join", NEW=new, ANY=old[0], **secret)
        for index, slots in _SHARES.items():
            run("scaling.md", "move", FROM=old[index], TO=new, SLOTS=slots, **secret)
        assert _slots(newcomer, estate) == 4096
        assert _kept(newcomer, estate) > len(_KEYS)
        assert _found(yard) == _KEYS
        time.sleep(1)
        for index, slots in _SHARES.items():
            run("scaling.md", "move", FROM=new, TO=old[index], SLOTS=slots, **secret)
        assert _slots(newcomer, estate) == 0
        run("scaling.md", "leave", OLD=new, ANY=old[0], **secret)
        assert _found(yard) == _KEYS
        time.sleep(1)
    assert sum(load.outcome.made.values()) > _RATE
    assert not load.outcome.failed, load.outcome.failed[:10]


def _slots(node: Valkey, estate: Estate) -> int:
    with redis.Redis(port=node.port, password=estate.valkey_password, decode_responses=True) as client:
        (me,) = (each for each in client.cluster("nodes").values() if "myself" in each["flags"])
    return sum(int(span[-1]) - int(span[0]) + 1 for span in me["slots"])


def _kept(node: Valkey, estate: Estate) -> int:
    with redis.Redis(port=node.port, password=estate.valkey_password) as client:
        return int(client.dbsize())


def _found(yard: modelyard.Client) -> list[str]:
    found = yard.keyvalue.BatchGet(cache_pb2.BatchGetRequest(namespace=_NAMESPACE, keys=_KEYS))
    return [entry.value.decode() for entry in found.entries]


def test_a_replica_comes_and_dies(estate: Estate) -> None:
    """
    A replica is copied from the running primary and named to the registry, instance by instance; then it dies before
    anybody takes it out of the settings. No call fails, and the metrics of the page say what happens.
    """
    serving, lag = (f'modelyard_database_replica_{name}{{server="replica 1"}}' for name in ("serving", "lag_seconds"))
    with Load(estate.stack.gateways, _RATE, without=["asset"]) as load:
        replica = estate.stack.postgres.replicate(estate.state / "replica", free_port())
        estate.stack.run(replace(replica.part(fsync="off"), name="postgresql-replica", needs=()))
        estate.roll(registry={"MODELYARD_DATABASE_REPLICA_URLS": replica.url(user=estate.role)})
        until(lambda: estate.metric("registry", serving) == [1, 1], "the replica does not serve")
        assert max(estate.metric("registry", lag)) < 5
        assert int(replica.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{estate.role}'")) >= 2  # noqa: S608
        estate.stack.kill("postgresql-replica")
        until(lambda: estate.metric("registry", serving) == [0, 0], "a dead replica serves")
        time.sleep(1)
    assert not load.outcome.failed, load.outcome.failed[:10]
