"""
grpc.health.v1: whether this process lives, and whether each of its services can do its work.

The package grpcio-health-checking brings the messages; its servicer writes with `context.write`, which only one of our
hosts has, and keeps watchers' streams open for ever, so that a drain would wait for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.errors import NotFound
from services.chassis.serving.background import beside
from services.chassis.serving.context import Context

_log = logging.getLogger(__name__)

Ping = Callable[[], Awaitable[object]]
Status = int  # HealthCheckResponse.ServingStatus, whose package has no types

_SERVING: Status = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Status = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@dataclass(slots=True)
class _Dependency:
    name: str
    ping: Ping
    interval: float
    timeout: float
    up: bool | None = field(default=None)  # None: not asked yet


class _Gauge(Protocol):
    def labels(self, dependency: str, /) -> _Gauge: ...

    def set(self, value: float, /) -> None: ...


class DependencyMetrics(Protocol):
    """
    Where the state of dependencies is exported: the part of `Metrics` that `Health` needs.

    Attributes:
        dependency_up: 1 while a dependency answers its ping, by its name.
    """

    @property
    def dependency_up(self) -> _Gauge: ...


class Health:
    """
    What this process answers when it is asked how it is.

    `""` is liveness: SERVING for as long as the process responds, even while dependencies are unavailable, because a
    dead database must not restart a pod. The name of a service is its readiness: SERVING while every dependency
    answers its ping. Draining turns everything to NOT_SERVING for good.

    Args:
        metrics: shows each dependency's state, if given.
        blocked_after: seconds without a turn after which the event loop counts as blocked.
    """

    def __init__(self, metrics: DependencyMetrics | None = None, blocked_after: float = 10.0) -> None:
        self._metrics = metrics
        self._blocked_after = blocked_after
        self._services: set[str] = set()
        self._dependencies: list[_Dependency] = []
        self._watchers: set[asyncio.Event] = set()
        self._draining = False
        self._watching = False
        self._turned: float | None = None

    def serves(self, service: str) -> None:
        """
        Answer for *service* ("modelyard.registry.v1.ModelService") too.
        """
        self._services.add(service)
        self._wake()

    def depends_on(self, name: str, ping: Ping, *, interval: float = 5.0, timeout: float = 2.0) -> None:
        """
        Make the readiness of every service depend on *ping*. Before `watch_dependencies` starts.

        Args:
            name: of the dependency, for logs and metrics ("postgresql").
            ping: raises when the dependency cannot do its work. It should do the least that proves it can.
            interval: seconds from one ping to the next; while it is down, at most one.
            timeout: seconds after which no answer is a bad answer.
        """
        self._dependencies.append(_Dependency(name, ping, interval, timeout))

    @asynccontextmanager
    async def watch_dependencies(self) -> AsyncIterator[None]:
        """
        Ping every dependency once, then keep pinging until the block ends.
        """
        self._turned = time.monotonic()
        async with beside(self._turn_over()):
            await asyncio.gather(*(self._check(each) for each in self._dependencies))
            self._watching = True
            async with beside(*(self._watch(each) for each in self._dependencies)):
                yield

    def drain(self) -> None:
        """
        Answer NOT_SERVING from now on, and end the watchers' streams once they have heard it.
        """
        self._draining = True
        self._wake()

    @property
    def draining(self) -> bool:
        """
        Whether `drain` was called.
        """
        return self._draining

    def down(self) -> list[str]:
        """
        The names of the dependencies that do not answer, or have not been asked yet.
        """
        return [each.name for each in self._dependencies if not each.up]

    def not_alive(self) -> str:
        """
        Why this process should be restarted: what the health of `""` says, or that its event loop does not turn; empty
        if it need not. May be asked from any thread.
        """
        if self._draining:
            return "draining"
        stands = 0.0 if self._turned is None else time.monotonic() - self._turned
        return f"the event loop has been blocked for {stands:.0f} s" if stands > self._blocked_after else ""

    def not_ready(self) -> str:
        """
        Why no calls should come here: what the health of the services says; empty if they should. May be asked from
        any thread.
        """
        if trouble := self.not_alive():
            return trouble
        if not self._watching:
            return "starting"
        return f"waiting for {', '.join(down)}" if (down := self.down()) else ""

    def status(self, service: str) -> Status | None:
        """
        The status of *service*; None if it is not served here.
        """
        if service and service not in self._services:
            return None
        if self._draining:
            return _NOT_SERVING
        return _NOT_SERVING if service and self.down() else _SERVING

    def statuses(self) -> dict[str, Status]:
        """
        The status of everything served here, `""` included.
        """
        return {name: self.status(name) or _SERVICE_UNKNOWN for name in ("", *sorted(self._services))}

    async def changes(self, service: str) -> AsyncIterator[Status]:
        """
        The status of *service* now and whenever it changes, until the process drains.
        """
        wake = asyncio.Event()
        self._watchers.add(wake)
        last = None
        try:
            while True:
                wake.clear()
                status = self.status(service)
                status = _SERVICE_UNKNOWN if status is None else status
                if status != last:
                    last = status
                    yield status
                if self._draining:
                    return
                await wake.wait()
        finally:
            self._watchers.discard(wake)

    async def _turn_over(self) -> None:
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(self._blocked_after / 20)

    async def _watch(self, dependency: _Dependency) -> None:
        while True:
            await asyncio.sleep(dependency.interval if dependency.up else min(dependency.interval, 1.0))
            await self._check(dependency)

    async def _check(self, dependency: _Dependency) -> None:
        try:
            async with asyncio.timeout(dependency.timeout):
                await dependency.ping()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the answer is "down"
            self._turn(dependency, up=False, why=str(error) or type(error).__name__)
        else:
            self._turn(dependency, up=True)

    def _turn(self, dependency: _Dependency, *, up: bool, why: str = "") -> None:
        if self._metrics is not None:
            self._metrics.dependency_up.labels(dependency.name).set(up)
        if up == dependency.up:
            return
        if not up:
            _log.warning("%s does not answer (%s): not ready", dependency.name, why)
        elif dependency.up is False:
            _log.info("%s answers again", dependency.name)
        dependency.up = up
        self._wake()

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """
    The servicer of grpc.health.v1.

    Args:
        health: what to answer.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: health_pb2.HealthCheckRequest, _context: Context) -> health_pb2.HealthCheckResponse:
        """
        Raises:
            NotFound: the service is not served here.
        """
        status = self._health.status(request.service)
        if status is None:
            raise NotFound("SERVICE_UNKNOWN", request.service, f"{request.service} is not served here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """
        A service that is not served here is SERVICE_UNKNOWN, which is no error: it may be served later.
        """
        async for status in self._health.changes(request.service):
            yield health_pb2.HealthCheckResponse(status=status)

    async def List(self, _request: health_pb2.HealthListRequest, _context: Context) -> health_pb2.HealthListResponse:
        """
        Every service and its status.
        """
        answer = health_pb2.HealthListResponse()
        for name, status in self._health.statuses().items():
            answer.statuses[name].status = status
        return answer


add_to_server = health_pb2_grpc.add_HealthServicer_to_server
