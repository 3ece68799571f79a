"""
Exports spans to an OpenTelemetry collector by OTLP/gRPC. OpenTelemetry is imported only when export is configured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.observability.tracing import Spans
from services.chassis.settings import SettingsError

# Time to flush pending spans at shutdown: an unavailable collector must not delay it further.
_FLUSH_SECONDS = 3.0


@asynccontextmanager
async def export_spans(endpoint: str | None, program: str, worker: int) -> AsyncIterator[Spans | None]:
    """
    Export spans for as long as the block lasts.

    Args:
        endpoint: of the collector, http://host:port or https://host:port; None exports nothing.
        program: the name of the service, "services.registry".
        worker: index of the worker.

    Yields:
        The span factory; None without export.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        yield None
        return
    try:
        from services.chassis.observability.otlp import Collector
    except ImportError as error:
        problem = f"MODELYARD_OTLP_ENDPOINT needs {error.name}: pip install -r requirements/otlp.txt, or unset it"
        raise SettingsError([problem]) from error
    collector = Collector(endpoint, program, worker)
    try:
        yield collector
    finally:
        closing = asyncio.ensure_future(asyncio.to_thread(collector.close))
        _, late = await asyncio.wait({closing}, timeout=_FLUSH_SECONDS)
        if late:
            collector.give_up()
        await closing
