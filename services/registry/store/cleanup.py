"""
Background cleanup: trims the change log, deletes expired request ids and API tokens, purges deleted models,
creates audit partitions.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from services.chassis.errors import FailedPrecondition, Unavailable
from services.chassis.serving.background import beside, every
from services.ledger.model.calls import Missing, Write
from services.ledger.store.changelog import Changelog
from services.ledger.store.writer import Writer
from services.registry.store.api_tokens import ApiTokenStore
from services.registry.store.models import Due, ModelStore
from services.registry.store.purging import Purging

_EVERY_SECONDS = 60.0
_MONTHS_SECONDS, _FIRST_MONTHS_SECONDS = 3600.0, 1.0
_ACTOR = "modelyard-registry"

_log = logging.getLogger(__name__)


class PurgeJob:
    """
    Purges the models whose retention has expired.

    Args:
        models: reads and writes them.
        purging: deletes the contents of large models first.
        writer: runs the writes.

    Attributes:
        failures: how often a model could not be purged.
    """

    def __init__(self, models: ModelStore, purging: Purging, writer: Writer) -> None:
        self._models, self._purging, self._writer = models, purging, writer
        self.failures = 0

    async def purge_due(self) -> int:
        """
        Purge the expired models, each in its own write, or in several when it is large. A model that cannot be purged
        does not stop the others; it is retried in the next run.

        Returns:
            How many there were.

        Raises:
            Unavailable: the database does not answer.
        """
        purged, last = 0, None
        # One pass, no model twice even if it fails: so the loop terminates.
        while found := await self._models.due(last):
            for each in found:
                last = each
                try:
                    purged += await self._purge(each)
                except (Missing, FailedPrecondition):
                    # Undeleted or purged by another process in the meantime: nothing to do.
                    pass
                except Unavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - the other models can be purged
                    self.failures += 1
                    _log.warning("could not purge %s: %s", each.name, error, exc_info=error)
        return purged

    async def _purge(self, due: Due) -> bool:
        write = Write(_ACTOR, "PurgeModel", "", "", b"")
        if await self._purging.find(due.name) == due.key:
            await self._purging.empty(due.key, write, due=True)
        work = partial(self._models.purge, name=due.name, due=True)
        return bool((await self._writer.run(write, work, lambda _: b"", [due.name])).value)


@asynccontextmanager
async def background_cleanup(
    log: Changelog, keep: timedelta, sweeper: PurgeJob, tokens: ApiTokenStore
) -> AsyncIterator[None]:
    """
    Trim the change log to *keep*, delete expired request ids and API tokens, purge expired models, and create future
    partitions of the audit log, while the block runs. The jobs are independent of each other.
    """
    async with beside(
        every(_EVERY_SECONDS, partial(log.trim, keep), "trim the log of changes"),
        every(_EVERY_SECONDS, log.forget, "forget old requests"),
        every(_MONTHS_SECONDS, log.make_months, "make months of the audit", first=_FIRST_MONTHS_SECONDS),
        every(_EVERY_SECONDS, sweeper.purge_due, "purge deleted models"),
        every(_EVERY_SECONDS, tokens.forget, "forget old API tokens"),
    ):
        yield
