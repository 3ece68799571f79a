"""
Pages of an order that goes both ways.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from embedded.postgres import owner
from modelyard.registry.v1 import imports_pb2, models_pb2
from services.ledger.store.statements import Statement
from services.ledger.tests.statements import observed
from services.registry.tests.calls import DEFAULT, import_items
from services.registry.tests.server import Registry

COUNT, SIZE = 900, 20


async def test_a_late_page_reads_no_earlier_one(registry: Registry) -> None:
    """
    The last pages of "parameter_count desc, name" begin where the page before ended, and all pages together are all
    models in that order, also where many have one count.
    """
    counts = {f"m{n:04}": n // 3 for n in range(COUNT)}
    items = [
        imports_pb2.ImportModelsRequest.Item(model_id=name, model=models_pb2.Model(parameter_count=count))
        for name, count in counts.items()
    ]
    await import_items(registry, items)
    asked: list[tuple[Statement, Any]] = []

    def see(_connection: object, statement: Statement, args: tuple[Any, ...]) -> None:
        if statement.name == "models.search_ordered":
            asked.append((statement, args))

    request = models_pb2.SearchModelsRequest(parent=DEFAULT, order_by="parameter_count desc, name", page_size=SIZE)
    found: list[str] = []
    with observed(registry.database, see):
        while True:
            page = await registry.models.SearchModels(request)
            found += [each.name.rpartition("/")[2] for each in page.models]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    assert found == sorted(counts, key=lambda name: (-counts[name], name))
    connection = await asyncpg.connect(owner(registry.database))
    try:
        # What is left is to walk along the index, as in a table of a million, where a bitmap would hold half of it.
        await connection.execute("ANALYZE models; SET enable_seqscan = off; SET enable_bitmapscan = off")
        statement, args = asked[-1]
        plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *args))
    finally:
        await connection.close()
    removed = sum(node.get("Rows Removed by Filter", 0) for node in _nodes(plan[0]["Plan"]))
    assert removed < 3 * SIZE


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", ()) for node in _nodes(inner))]
