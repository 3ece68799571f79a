"""
Keeps what is only kept for a time from growing for ever: the log of changes, yesterday's requests, deleted models.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from services.chassis.background import beside, every
from services.chassis.errors import FailedPrecondition
from services.ledger.model.calls import Missing, Write
from services.ledger.store.changelog import Changelog
from services.ledger.store.grouping import Writer
from services.registry.store.models import ModelStore

_EVERY_SECONDS = 60.0
_ACTOR = "modelyard-registry"


@asynccontextmanager
async def sweeping(log: Changelog, keep: timedelta, models: ModelStore, writer: Writer) -> AsyncIterator[None]:
    """
    Trim the log of changes to *keep*, forget yesterday's requests and purge the models whose time has come, while the
    block lasts.
    """

    async def sweep() -> None:
        await log.trim(keep)
        await purge_due(models, writer)

    async with beside(every(_EVERY_SECONDS, sweep, "sweep")):
        yield


async def purge_due(models: ModelStore, writer: Writer) -> int:
    """
    Purge the models whose time has come, each in a write of its own.

    Returns:
        How many there were.
    """
    purged = 0
    while names := await models.due():
        for name in names:
            write = Write(_ACTOR, "PurgeModel", "", "", b"")
            # Undeleted or purged by another process in the meantime: nothing to do.
            with contextlib.suppress(Missing, FailedPrecondition):
                await writer.run(write, partial(models.purge, name=name, due=True), lambda _: b"", [name])
                purged += 1
    return purged
