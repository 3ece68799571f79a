"""
What caches stand on: who is behind is not told to be current, and every name that a write changes is told.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from google.protobuf.duration_pb2 import Duration

from modelyard.registry.v1 import imports_pb2
from services.registry.tests.calls import DEFAULT, import_items, revisions, sql, watch
from services.registry.tests.server import Registry

_MANY = """
WITH bumped AS (UPDATE revision SET value = 601 RETURNING value)
INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
SELECT n, now(), array_fill('namespaces/x'::text, ARRAY[50]), array_fill(2::smallint, ARRAY[50]),
       array_fill(false, ARRAY[50])
  FROM generate_series(2, 601) AS n, bumped RETURNING 1
"""


async def test_who_is_behind_is_not_told_to_be_current(registry: Registry) -> None:
    """
    Until a stream has reached the head that was known when it began, none of its heartbeats declares the watcher
    current: a cache would keep serving replaced responses.
    """
    await sql(registry, _MANY)
    current, told = [], 0
    beat = Duration(nanos=100_000_000)
    async with asyncio.timeout(30), aclosing(watch(registry, start_revision=1, heartbeat_interval=beat)) as messages:
        async for message in messages:
            told = max(told, message.revision.revision)
            if message.heartbeat.HasField("current_until"):
                current.append((told, message.heartbeat.applied_revision))
            if told == 601 and current:
                break
    assert set(current) == {(601, 601)}


async def test_an_import_tells_of_every_model(registry: Registry) -> None:
    """
    The single revision of a batch names each of its models, with its subtree.
    """
    items = [imports_pb2.ImportModelsRequest.Item(model_id=f"i{number}") for number in range(3)]
    (done,) = await import_items(registry, items)
    (told,) = await revisions(registry, done.revision, done.revision)
    names = {(change.resource, change.subtree) for change in told.changes}
    assert names == {(f"{DEFAULT}/models/i{number}", True) for number in range(3)}
