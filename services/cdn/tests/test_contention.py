"""
Concurrent writes of two processes to the same assets and owners.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import asyncpg
import pytest

from embedded.postgres import SERVICE_ROLE
from services.cdn.model.formats import Inspection
from services.cdn.model.static_files import StaticDraft, StaticName
from services.cdn.store.delivery.static_files import StaticFileStore
from services.cdn.store.delivery.static_objects import StaticObjects
from services.cdn.store.records import Records, VerifiedBytes
from services.cdn.store.retention.pins import Pins
from services.cdn.tests.allow_all import ALL
from services.chassis.errors import Aborted, FailedPrecondition, NotFound
from services.ledger.model.calls import Write
from services.ledger.store.database import Database, DatabaseSettings, open_database
from services.ledger.store.retries import Cause
from services.ledger.store.transactions import Transaction
from services.ledger.store.writer import Writer

CLIENTS = 32
SECONDS = float(os.environ.get("MODELYARD_CONTENTION_SECONDS", "1.5"))
DIGESTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(12)]
OWNERS = [f"namespaces/default/models/m/versions/{number}" for number in range(4)]
PATHS = [StaticName.parse(f"static/{number}") for number in range(4)]


class Objects:
    """
    A bucket that accepts everything.
    """

    async def write(self, *_: object) -> None:
        """
        Accept.
        """

    async def remove(self, *_: object) -> None:
        """
        Accept.
        """


class Client:
    """
    Makes writes of every kind in turn.
    """

    def __init__(self, database: Database, writers: tuple[Writer, Writer], number: int) -> None:
        self._records, self._pins = Records(database), Pins(database, 0)
        objects = cast("StaticObjects", Objects())
        self._files = StaticFileStore(database, objects, self._pins, has_edge=True)
        self._writer, self._delivery = writers
        self._dice = random.Random(number)  # noqa: S311 - test data
        self.done = 0

    async def run(self, until: float) -> None:
        for turn in itertools.count():
            if time.monotonic() > until:
                return
            try:
                await self._write(turn)
                self.done += 1
            except (Aborted, FailedPrecondition, NotFound):
                # Expected conflicts with the other writes.
                pass

    async def _write(self, turn: int) -> None:
        dice = self._dice
        digest, owner, path = dice.choice(DIGESTS), dice.choice(OWNERS), dice.choice(PATHS)
        match turn % 6:
            case 0 | 1:
                reserved = await self._records.reserve(digest, 1, "text/plain", private=False)
                seen = Inspection("TEXT")
                verified = VerifiedBytes(digest, 1, "text/plain", private=False, reserved=reserved, inspection=seen)
                await self._do(lambda tx: self._records.register(tx, verified), [f"assets/{digest}"])
            case 2:
                several = dice.sample(DIGESTS, 3)
                await self._do(lambda tx: self._pins.add(tx, owner, several, ALL), None)
            case 3:
                draft = StaticDraft(digest, "", "")
                await self._do(lambda tx: self._files.put(tx, path, draft, "", ALL), [path], self._delivery)
            case 4:
                await self._do(lambda tx: self._pins.remove(tx, owner, []), None)
                await self._do(lambda tx: self._records.condemn(tx, digest), [f"assets/{digest}"])
            case _:
                await self._do(lambda tx: self._files.delete(tx, path), [path], self._delivery)

    async def _do(
        self,
        work: Callable[[Transaction], Awaitable[object]],
        touches: Sequence[object] | None,
        writer: Writer | None = None,
    ) -> None:
        await (writer or self._writer).run(Write("me", "Test", "", "", b""), work, lambda _: b"", touches)


@pytest.mark.timeout(120)
async def test_two_processes_never_deadlock(new_assets_database: Callable[[], str]) -> None:
    """
    Concurrent writes of two processes never deadlock in the database.
    """
    url = new_assets_database()
    connection = await asyncpg.connect(url.replace(SERVICE_ROLE, "postgres"))
    # Deadlocks are detected quickly, so that many can occur in the time.
    await connection.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''50ms''', current_database()); END $$"
    )
    settings = DatabaseSettings(url=url)
    async with open_database(settings) as one, open_database(settings) as two:
        writers = [(Writer(each), Writer(each, most_together=1)) for each in (one, two)]
        clients = [Client((one, two)[number % 2], writers[number % 2], number) for number in range(CLIENTS)]
        until = time.monotonic() + SECONDS
        await asyncio.gather(*(client.run(until) for client in clients))
        told = [database.retries.counts[Cause.CONFLICT] for database in (one, two)]
    assert sum(client.done for client in clients) > CLIENTS
    # The statistics include a connection's deadlocks when it has ended, at the latest.
    found = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    assert (found, told) == (0, [0, 0])
