"""
Watchers are told after the commit, and never at the cost of a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing

import asyncpg
import pytest
from google.protobuf.duration_pb2 import Duration

from embedded.postgres import owner
from services.ledger.store.statements import Statement
from services.ledger.tests.statements import observed
from services.registry.tests.calls import add_version as add
from services.registry.tests.calls import create, deploy, status, watch
from services.registry.tests.server import Registry

ROW = "INSERT INTO changes VALUES ($1, now(), '{}', '{}', '{}')"


@pytest.fixture
def statements(registry: Registry) -> Iterator[list[str]]:
    """
    The names of the statements that writes send, in order.
    """
    names: list[str] = []

    def see(_connection: object, statement: Statement, _args: object) -> None:
        if not statement.anywhere and not statement.name.startswith("changes.a"):
            names.append(statement.name)

    with observed(registry.database, see):
        yield names


async def test_watchers_are_told_after_the_commit(registry: Registry, statements: list[str]) -> None:
    """
    A write notifies in a transaction of its own after its commit, once; a write without changes does not.
    """
    statements.clear()
    await create(registry, "m")
    while "changes.notify" not in statements:
        await asyncio.sleep(0.01)
    # The health check and the change feed read at any time.
    reads = {"revision.ping", "changes.after", "changes.end"}
    found = [each for each in statements[statements.index("write.commit") :] if each not in reads]
    assert found == ["write.commit", "changes.notify"]


@pytest.mark.parametrize("of", ["registry", "assets"])
async def test_the_trigger_tells_for_others_only(
    new_database: Callable[[], str], new_assets_database: Callable[[], str], of: str
) -> None:
    """
    A transaction that says that it tells later is not told of by the trigger; all others are, those of an earlier
    release among them.
    """
    url = owner(new_database() if of == "registry" else new_assets_database())
    channel = "registry_changes" if of == "registry" else "cdn_changes"
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener, writer = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        for name in (channel, "marker"):
            await listener.add_listener(name, lambda _connection, _pid, told, _payload: heard.put_nowait(told))
        async with writer.transaction():
            await writer.execute("SET LOCAL modelyard.tells = 'later'")
            await writer.execute(ROW, 1001)
        await writer.execute("NOTIFY marker")
        await writer.execute(ROW, 1002)
        async with asyncio.timeout(10):
            assert [await heard.get(), await heard.get()] == ["marker", channel]
    finally:
        await listener.close()
        await writer.close()


async def test_who_is_not_told_looks(registry: Registry) -> None:
    """
    When the notification fails the write succeeds all the same, and watchers find it by polling.
    """
    cut_off: list[str] = []

    def see(_connection: object, statement: Statement, _args: object) -> None:
        if statement.name == "changes.notify":
            cut_off.append(statement.name)
            raise ConnectionResetError("cut off")

    request = {"start_revision": 2, "heartbeat_interval": Duration(seconds=60)}
    with observed(registry.database, see):
        async with aclosing(watch(registry, **request)) as messages, asyncio.timeout(10):
            await anext(messages)
            made = await create(registry, "m")
            async for message in messages:
                if message.revision.revision == made.revision:
                    break
        assert await create(registry, "n")
    assert cut_off


async def test_status_updates_go_together(registry: Registry, statements: list[str]) -> None:
    """
    Statuses of deployments of many models that are told at once take few commits, and each is written.
    """
    for n in range(12):
        await create(registry, f"m{n}")
        await add(registry, f"m{n}")
        await deploy(registry, f"d{n}", f"m{n}")
    statements.clear()
    done = await asyncio.gather(*(status(registry, f"d{n}", "FAILED") for n in range(12)))
    assert len({each.revision for each in done}) == 12
    assert statements.count("write.commit") < 12
