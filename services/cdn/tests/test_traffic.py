"""
Metrics of S3 requests, by operation and outcome.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry

from services.cdn.metrics import StoreMetrics
from services.cdn.model import Span
from services.cdn.store.objects.bucket import Bucket
from services.cdn.store.objects.s3 import AlreadyExists, NoSuchKey, RangeNotSatisfiable, S3Settings, traffic
from services.cdn.store.objects.traffic import outcome
from services.cdn.tests.conftest import World
from services.chassis.errors import ResourceExhausted, Unavailable


class _Counted:
    """
    The increase of the metrics since this was created.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StoreMetrics(traffic()))
        self._before = self._all()

    def more(self, name: str, **labels: str) -> float:
        """
        The increase of a series.
        """
        key = f"modelyard_s3_{name}", tuple(sorted(labels.items()))
        return self._all().get(key, 0) - self._before.get(key, 0)

    def _all(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        families = self._registry.collect()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


async def test_calls_bytes_and_durations(world: World) -> None:
    """
    Each call counts once under its operation and outcome; bytes are those of objects, in both directions.
    """
    name = f"traffic-{uuid.uuid4().hex[:12]}"
    world.client.create_bucket(Bucket=name)
    bucket, counted = Bucket(world.straight(name)), _Counted()
    try:
        await bucket.put("one", b"x" * 1000, "text/plain")
        with pytest.raises(AlreadyExists):
            await bucket.put("one", b"x" * 1000, "text/plain")
        with pytest.raises(NoSuchKey):
            await bucket.head("none")
        body = await bucket.open("one", Span(0, 0))
        assert len(await bucket.read(body, 600, hashlib.sha256())) == 600
        body.close()
        with pytest.raises(RangeNotSatisfiable):
            await bucket.open("one", Span(1000, 1))
    finally:
        await bucket.close()
    outcomes = [("PutObject", "ok"), ("PutObject", "taken"), ("HeadObject", "absent"), ("GetObject", "ok")]
    for operation, how in [*outcomes, ("GetObject", "past_end")]:
        assert counted.more("calls_total", operation=operation, outcome=how) == 1
    assert counted.more("call_seconds_count", operation="PutObject") == 2
    assert counted.more("bytes_total", operation="PutObject", direction="sent") == 1000
    # Bytes that were requested and not read do not count.
    assert counted.more("bytes_total", operation="GetObject", direction="received") == 600


async def test_a_silent_store_is_counted() -> None:
    """
    A call without a response counts once, after all attempts.
    """
    bucket, counted = (
        Bucket(S3Settings("any", endpoint="http://127.0.0.1:1", access_key="a", secret_key="b")),
        _Counted(),
    )
    try:
        with pytest.raises(Unavailable):
            await bucket.head("one")
    finally:
        await bucket.close()
    assert counted.more("calls_total", operation="HeadObject", outcome="silent") == 1


@pytest.mark.parametrize(
    ("status", "how"),
    [
        *((status, "ok") for status in (200, 206, 304)),
        *((status, "busy") for status in (408, 409, 429, 500, 503)),
        *((status, "refused") for status in (400, 403, 418)),
        *((404, "absent"), (412, "taken"), (416, "past_end")),
    ],
)
def test_outcomes(status: int, how: str) -> None:
    """
    Every response of S3 has one of a few outcomes.
    """
    assert outcome(status) == how


class _Full(BaseHTTPRequestHandler):
    """
    An object store that is full.
    """

    def do_PUT(self) -> None:
        """
        Reject.
        """
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(507)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """
        Nothing.
        """


async def test_a_full_store_is_told_as_full() -> None:
    """
    A full object store is distinguished from an unavailable one: a retry would not help.
    """
    server = HTTPServer(("127.0.0.1", 0), _Full)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bucket = Bucket(
        S3Settings("full", endpoint=f"http://127.0.0.1:{server.server_port}", access_key="a", secret_key="b")
    )
    try:
        with pytest.raises(ResourceExhausted) as caught:
            await bucket.put("assets/x", b"data", "text/plain")
        assert caught.value.reason == "ASSET_STORE_FULL"
    finally:
        await bucket.close()
        server.shutdown()
        server.server_close()
