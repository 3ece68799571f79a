"""
A cluster of Valkey servers on loopback: three that have the slots, and a replica of each.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import redis

from embedded.parts import EmbeddedError, free_port
from embedded.supervisor import Supervisor
from embedded.valkey import Valkey

_SLOTS = 16384
_PRIMARIES = 3
_PATIENCE = 30.0


class ValkeyCluster:
    """
    Six nodes.

    Args:
        state: a folder for what the nodes remember of each other.
        max_memory: of each, in bytes.
        password: that they ask for; empty means none.

    Attributes:
        nodes: the servers; the first three have the slots to begin with.
    """

    def __init__(self, state: Path, max_memory: int = 64 * 2**20, password: str = "") -> None:
        self.password = password
        self.nodes = [self._node(state, number, max_memory) for number in range(2 * _PRIMARIES)]

    @property
    def url(self) -> str:
        """
        How to connect: to any node.
        """
        return self.nodes[0].url

    def start(self, supervisor: Supervisor) -> None:
        """
        Start the nodes and make them a cluster.

        Raises:
            EmbeddedError: they do not become one.
        """
        self._introduce()
        supervisor.start([node.part() for node in self.nodes])
        clients = [self._client(node) for node in self.nodes]
        try:
            _until(lambda: all(_ready(client) for client in clients))
        finally:
            for client in clients:
                client.close()

    def _introduce(self) -> None:
        """
        Write what every node would remember of the others, had they met: meeting takes seconds.
        """
        names = [hashlib.sha1(f"{node.port}".encode(), usedforsecurity=False).hexdigest() for node in self.nodes]
        share = _SLOTS // _PRIMARIES + 1
        for me, node in enumerate(self.nodes):
            lines = []
            for number, (name, other) in enumerate(zip(names, self.nodes, strict=True)):
                address = f"127.0.0.1:{other.port}@{other.options['cluster-port']}"
                flags = "myself," if number == me else ""
                if number < _PRIMARIES:
                    first = number * share
                    slots = f"{first}-{min(first + share, _SLOTS) - 1}"
                    lines.append(f"{name} {address} {flags}master - 0 0 {number + 1} connected {slots}")
                else:
                    primary = number - _PRIMARIES
                    lines.append(f"{name} {address} {flags}slave {names[primary]} 0 0 {primary + 1} connected")
            lines.append(f"vars currentEpoch {_PRIMARIES} lastVoteEpoch 0\n")
            Path(node.options["cluster-config-file"]).write_text("\n".join(lines), encoding="utf-8")

    def clear(self) -> None:
        """
        Forget all values.
        """
        for node in self.nodes:
            with self._client(node) as client:
                if client.info("replication")["role"] == "master":
                    client.flushall()

    def _node(self, state: Path, number: int, max_memory: int) -> Valkey:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": "1000",
            "cluster-config-file": str(state / f"valkey-{number}.conf"),
            "cluster-announce-ip": "127.0.0.1",
            "dir": str(state),
            "repl-diskless-sync-delay": "0",
        }
        return Valkey(free_port(), max_memory, f"valkey-{number}", options, self.password)

    def _client(self, node: Valkey) -> redis.Redis:
        return redis.Redis(port=node.port, password=self.password or None)


def _ready(client: redis.Redis) -> bool:
    text: dict[str, str] = client.cluster("info")
    replication = client.info("replication")
    linked = replication["role"] == "master" or replication["master_link_status"] == "up"
    return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) == 2 * _PRIMARIES and linked


def _until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + _PATIENCE
    while not true():
        if time.monotonic() > ends:
            raise EmbeddedError("the Valkey nodes do not become a cluster; their logs say why")
        time.sleep(0.05)
