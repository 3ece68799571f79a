"""
Locks of a write, taken before the revision: always the model first, so that no holder of the revision waits.
"""

from __future__ import annotations

from services.ledger.model.calls import Missing
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction
from services.registry.model.names import ModelName

_LOCK = Statement(
    "models.lock",
    """
SELECT id, latest_version, coalesce(newest_version, latest_version) AS newest_version FROM models
 WHERE namespace_id = $1 AND model_id = $2 AND delete_time IS NULL FOR NO KEY UPDATE
""",
)


async def lock_model(transaction: Transaction, name: ModelName) -> Row:
    """
    Lock a model against every other write to it and to what is below it.

    Returns:
        Its id, latest_version (the last number that was given) and newest_version (the last one that is not deleted).

    Raises:
        Missing: there is no such model, or it is deleted.
    """
    row = await transaction.row(_LOCK, name.namespace, name.model)
    if row is None:
        raise Missing("MODEL_NOT_FOUND", name)
    return row
