"""
Which instances of a service the gateway sends calls to, by what their health checks say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from embedded.parts import free_port
from embedded.s3 import S3
from gateway.tests import harness
from gateway.tests.echo import call

GET = "/modelyard.registry.v1.ModelService/GetModel"
CREATE = "/modelyard.registry.v1.ModelService/CreateModel"
OK = grpc.StatusCode.OK
HEALTHY, HEALTHY_CACHE = "cluster.registry.membership_healthy", "cluster.cache.membership_healthy"
UNANSWERED = "cluster.registry.health_check.network_failure"


class Instance(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it has arguments for the type checker alone
    """
    A service that answers everything.

    Attributes:
        serving: what its health says.
        answers: whether its health says anything.
        calls: how many calls it has served.
    """

    def __init__(self) -> None:
        self.serving = True
        self.answers = threading.Event()
        self.answers.set()
        self.calls = 0

    @contextmanager
    def served(self) -> Iterator[int]:
        """
        Serve it: the port.
        """
        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((self,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            self.answers.set()
            server.stop(None).wait()

    def service(self, details: Any) -> Any:
        """
        The handler of any method.
        """

        def answer(_request: bytes, _context: Any) -> bytes:
            if details.method.startswith("/grpc.health."):
                self.answers.wait()
                said: bytes = health_pb2.HealthCheckResponse(status=1 if self.serving else 2).SerializeToString()
                return said
            self.calls += 1
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def instances() -> Iterator[list[tuple[Instance, int]]]:
    """
    Two instances, and their ports.
    """
    with ExitStack() as stack:
        yield [(each, stack.enter_context(each.served())) for each in (Instance(), Instance())]


@contextmanager
def _gateway(state: Path, ports: Sequence[int], **others: Sequence[int]) -> Iterator[harness.Edge]:
    with harness.gateway(S3(state, 1), state / "gateway", services={"registry": ports, **others}) as edge:
        yield edge


def test_an_instance_that_is_not_serving_receives_no_calls(
    instances: list[tuple[Instance, int]], tmp_path: Path
) -> None:
    """
    One NOT_SERVING is enough, while another instance serves.
    """
    (leaving, _), (staying, _) = instances
    with _gateway(tmp_path, [port for _, port in instances]) as edge:
        _until(lambda: edge.count(HEALTHY)[HEALTHY] == 2)
        leaving.serving = False
        _until(lambda: edge.count(HEALTHY)[HEALTHY] == 1)
        before = leaving.calls, staying.calls
        assert _codes(edge, CREATE, 12) == {OK}
        assert (leaving.calls, staying.calls) == (before[0], before[1] + 12)
        # It takes one check, and not a number of them.
        assert edge.count(UNANSWERED) == {UNANSWERED: 0}


@pytest.mark.parametrize("path", [GET, CREATE], ids=["read", "write"])
def test_without_a_healthy_instance_all_are_tried(
    instances: list[tuple[Instance, int]], tmp_path: Path, path: str
) -> None:
    """
    Health checks may be wrong on a busy machine, and an ejection does not ask whether the instance is the last one. A
    call that meets an instance that is dead is sent to another one.
    """
    (busy, port), _ = instances
    # The cache is the same instance: without a healthy cache either, reads are tried at both.
    with _gateway(tmp_path, [free_port(), port], cache=[port]) as edge:
        _until(lambda: edge.count(HEALTHY)[HEALTHY] == 1)
        busy.serving = False
        _until(lambda: not any(edge.count(HEALTHY, HEALTHY_CACHE).values()))
        assert _codes(edge, path, 12) == {OK}
        assert busy.calls == 12


def test_an_instance_whose_health_is_late_stays_in_use(instances: list[tuple[Instance, int]], tmp_path: Path) -> None:
    """
    A health check that is not answered in time is no NOT_SERVING.
    """
    (slow, port), _ = instances
    with _gateway(tmp_path, [port]) as edge:
        _until(lambda: edge.count(HEALTHY)[HEALTHY] == 1)
        slow.answers.clear()
        _until(lambda: edge.count(UNANSWERED)[UNANSWERED] == 2)
        assert edge.count(HEALTHY) == {HEALTHY: 1}
        assert _codes(edge, CREATE, 4) == {OK}


def test_a_call_without_a_live_instance_is_unavailable(tmp_path: Path) -> None:
    """
    Once several were tried.
    """
    with _gateway(tmp_path, [free_port(), free_port()]) as edge:
        assert _codes(edge, CREATE, 2) == {grpc.StatusCode.UNAVAILABLE}


def _codes(edge: harness.Edge, path: str, times: int) -> set[grpc.StatusCode]:
    with edge.connect_grpc() as channel:
        return {call(edge, path, None, channel)[0] for _ in range(times)}


def _until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
