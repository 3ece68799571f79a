"""
Cache processes whose connections to their upstreams can be stalled, cut and slowed down.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import grpc

from embedded import suite
from embedded.link import Link
from embedded.parts import Part, free_port
from embedded.supervisor import Supervisor

_OPTIONS = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]


@dataclass(frozen=True)
class Upstreams:
    """
    The ports of a cache's upstreams.

    Args:
        registries: one or more.
    """

    registries: Sequence[int]
    cdn: int
    valkey: int


class Cache:
    """
    A cache process.

    Args:
        name: of its part.
        supervisor: starts and kills it.
        upstreams: the ports that its links lead to.
        bound: the staleness bound in seconds.
        host: envoy or grpcio.
        module: the module to run, the cache by default.

    Attributes:
        registries: the links to the registries.
        cdn: the link to the asset service.
        valkey: the link to Valkey.
        busy: held while a fault is injected.
        counts: metrics, including those from before restarts.
    """

    def __init__(
        self,
        name: str,
        supervisor: Supervisor,
        upstreams: Upstreams,
        bound: float,
        host: str,
        module: str = "services.cache",
    ) -> None:
        self.name = name
        self.registries = [Link(port) for port in upstreams.registries]
        self.cdn, self.valkey = Link(upstreams.cdn), Link(upstreams.valkey)
        self.busy = asyncio.Lock()
        self.counts: Counter[str] = Counter()
        self._before = 0
        self._supervisor, self._bound, self._host, self._module = supervisor, bound, host, module
        self._part: Part | None = None
        self._metrics = free_port()
        self.channel: grpc.aio.Channel | None = None

    @property
    def links(self) -> list[Link]:
        """
        All links.
        """
        return [*self.registries, self.cdn, self.valkey]

    async def start(self) -> None:
        """
        Start the process and its links.
        """
        for link in self.links:
            await link.up()
        port = free_port()
        service = suite.Service(
            name="cache",
            health="modelyard.cache.v1.CacheAdminService",
            needs=(),
            environment={
                "MODELYARD_REGISTRY_TARGET": ",".join(f"127.0.0.1:{link.port}" for link in self.registries),
                "MODELYARD_CDN_TARGET": f"127.0.0.1:{self.cdn.port}",
                "MODELYARD_VALKEY_URL": f"redis://127.0.0.1:{self.valkey.port}/0",
                "MODELYARD_CACHE_STREAM_BOUND_SECONDS": str(self._bound),
                "MODELYARD_CACHE_WARM_PATIENCE_SECONDS": "0.2",
                "MODELYARD_LOG_LEVEL": "error",
            },
            workers=1,
            host=self._host,
            port=port,
            metrics_port=self._metrics,
        )
        part = service.part()
        argv = [sys.executable, "-m", self._module, *part.argv[3:]]
        self._part = replace(part, name=self.name, argv=argv)
        await asyncio.to_thread(self._supervisor.start, [self._part])
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)

    async def restart(self) -> None:
        """
        Kill the process, and start it again.
        """
        assert self._part is not None
        await self.read_metrics()
        self._before = self.counts["joined"]
        await asyncio.to_thread(self._supervisor.kill, self.name)
        await asyncio.to_thread(self._supervisor.start, [self._part])

    async def stop(self) -> None:
        """
        Kill the process, and close the channel and the links.
        """
        with suppress(KeyError):
            # It may not have been started.
            await asyncio.to_thread(self._supervisor.kill, self.name)
        if self.channel is not None:
            await self.channel.close(None)
        for link in self.links:
            await link.down()

    async def read_metrics(self) -> None:
        """
        Update the number of reads that have joined a load, including those from before restarts.
        """

        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as page:
                text: str = page.read().decode()
                return text

        lines = (await asyncio.to_thread(read)).splitlines()
        found = [line.rpartition(" ")[2] for line in lines if line.startswith("modelyard_cache_waits_total")]
        self.counts["joined"] = self._before + sum(int(float(value)) for value in found)
