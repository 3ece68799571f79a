"""
The script that makes nodes a cluster, on nodes as the manifests configure them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.secrets import make
from embedded.parts import free_port
from embedded.supervisor import Supervisor
from embedded.testing import scratch
from embedded.valkey import Valkey

COMPONENT = Path(__file__).resolve().parents[1] / "components" / "data-valkey"
PASSWORD = "s3cret"


@pytest.fixture
def nodes() -> Iterator[tuple[list[Valkey], Path]]:
    """
    Six nodes that know nothing of each other, and the file with their password.
    """
    with scratch() as state:
        password = state / "password"
        password.write_text(PASSWORD)
        supervisor = Supervisor(state / "log")
        found = [_node(state, number) for number in range(6)]
        try:
            supervisor.start([node.part() for node in found])
            yield found, password
        finally:
            supervisor.stop()


def _node(state: Path, number: int) -> Valkey:
    config = dict(
        line.split(maxsplit=1)
        for line in (COMPONENT / "valkey.conf").read_text().splitlines()
        if line and not line.startswith("#")
    )
    given = {key: value.strip('"') for key, value in config.items() if key not in ("include", "bind", "port", "dir")}
    options = {
        **given,
        "dir": str(state),
        "cluster-config-file": f"{state}/{number}.conf",
        "cluster-port": str(free_port()),
    }
    return Valkey(free_port(), name=f"valkey-{number}", options=options, password=PASSWORD)


def _form(nodes: list[Valkey], password: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(COMPONENT / "form.sh"), "1", *(f"localhost:{node.port}" for node in nodes)],
        env={**os.environ, "VALKEY_PASSWORD_FILE": str(password)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def _until_each_shard_has_a_replica(node: Valkey) -> None:
    ends = time.monotonic() + 60
    with redis.Redis(port=node.port, password=PASSWORD) as client:
        while True:
            flags = [each["flags"] for each in client.cluster("nodes").values()]
            if sum("master" in each for each in flags) == sum("slave" in each for each in flags) == 3:
                return
            assert time.monotonic() < ends, flags
            time.sleep(0.1)


@pytest.mark.skipif(
    not (shutil.which("valkey-cli") or shutil.which("redis-cli")),
    reason="neither valkey-cli nor redis-cli is installed: `apt install redis-tools` on Debian and Ubuntu",
)
def test_nodes_become_a_cluster_once(nodes: tuple[list[Valkey], Path]) -> None:
    """
    Six nodes become three shards with a replica each; run again, it changes nothing.
    """
    servers, password = nodes
    done = _form(servers, password)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    with redis.RedisCluster(host="127.0.0.1", port=servers[0].port, password=PASSWORD) as client:
        client.set("modelyard", "1")
        assert client.get("modelyard") == b"1"
    _until_each_shard_has_a_replica(servers[0])
    again = _form(servers, password)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing to do" in again.stdout


def test_a_full_valkey_keeps_account_everywhere() -> None:
    """
    Every Valkey configuration here evicts only keys that have a TTL.
    """
    assert "maxmemory-policy volatile-lru\n" in (COMPONENT / "valkey.conf").read_text()
    with scratch() as folder:
        make(folder)
        assert "maxmemory-policy volatile-lru\n" in (folder / "valkey" / "valkey.conf").read_text()
