"""
When API tokens were used last, as this process has seen it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from services.chassis.access.api_tokens import ApiTokens
from services.registry.model.api_tokens import ApiTokenName
from services.registry.store.api_tokens import ApiTokenStore


async def record_uses(tokens: ApiTokens, store: ApiTokenStore) -> None:
    """
    Store when tokens were used, each at most once a minute.

    Raises:
        ModelyardError: the database does not answer; the uses are stored the next time.
    """
    uses = tokens.take_uses()
    try:
        await store.record_uses(
            {ApiTokenName.of_subject(subject): datetime.fromtimestamp(at, UTC) for subject, at in uses.items()}
        )
    except BaseException:
        tokens.put_back(uses)
        raise
