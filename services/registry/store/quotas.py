# ruff: noqa: S608 - only numbers of parameters go into these texts; values are parameters
"""
Quotas and usage of namespaces. They are checked twice: before a write locks the revision, so that a full namespace
does not slow down other writers, and in the write's last statement, where no concurrent write can change the usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.chassis.errors import ResourceExhausted
from services.ledger.model.calls import Missing
from services.ledger.store.servers import Row
from services.ledger.store.statements import Statement
from services.ledger.store.transactions import Transaction
from services.registry.model.names import NamespaceName

# FOR KEY SHARE: the namespace cannot be deleted meanwhile, and other writers do not wait.
_USAGE = Statement(
    "namespaces.room",
    """
SELECT used.models AS used_models, used.asset_bytes AS used_bytes, namespace.max_models, namespace.max_asset_bytes
  FROM namespaces AS namespace JOIN namespace_usage AS used USING (namespace_id)
 WHERE namespace_id = $1 FOR KEY SHARE OF namespace
""",
)

# Columns of `used` to return from a last statement, for `check_within_quota`.
USED = "used.used_models, used.used_bytes, used.max_models, used.max_asset_bytes"


def count(namespace: str, models: str, size: str) -> str:
    """
    A common table expression `used` for a last statement: counts what a write adds to a namespace.

    Args:
        namespace, models, size: SQL of the namespace's id, and of how many models and bytes more it holds.
    """
    return f"""
, used AS (
    UPDATE namespace_usage AS usage SET models = usage.models + {models}, asset_bytes = usage.asset_bytes + {size}
      FROM namespaces AS namespace
     WHERE usage.namespace_id = {namespace} AND namespace.namespace_id = {namespace}
    RETURNING usage.models AS used_models, usage.asset_bytes AS used_bytes, namespace.max_models,
              namespace.max_asset_bytes
)
"""


async def check_quota(transaction: Transaction, parent: NamespaceName, *, models: int = 0, size: int = 0) -> None:
    """
    Check that a namespace exists and that its quota allows so many more models and bytes.

    Raises:
        Missing: there is no such namespace.
        ResourceExhausted: the quota would be exceeded (MODEL_QUOTA, ASSET_QUOTA).
    """
    row = await transaction.row(_USAGE, parent.namespace)
    if row is None:
        raise Missing("NAMESPACE_NOT_FOUND", parent)
    used = {**row, "used_models": row["used_models"] + models, "used_bytes": row["used_bytes"] + size}
    check_within_quota(parent, used, models=models, size=size)


def check_within_quota(parent: NamespaceName, row: Row | Mapping[str, Any], *, models: int = 0, size: int = 0) -> None:
    """
    Check the usage after a write against the quota.

    Args:
        row: the columns USED, with what is added.
        models, size: what is added; a write that adds none of a kind does not fail for it.

    Raises:
        ResourceExhausted: the quota is exceeded.
    """
    if models > 0 and row["max_models"] and row["used_models"] > row["max_models"]:
        raise ResourceExhausted(
            "MODEL_QUOTA",
            f"{parent} has a quota of {row['max_models']:,} models: purge some or raise the quota",
            metadata={"resource": str(parent), "limit": str(row["max_models"])},
        )
    if size > 0 and row["max_asset_bytes"] and row["used_bytes"] > row["max_asset_bytes"]:
        raise ResourceExhausted(
            "ASSET_QUOTA",
            f"the versions of {parent} may have {row['max_asset_bytes']:,} bytes in all, and would have "
            f"{row['used_bytes']:,}: purge models or raise its quota",
            metadata={"resource": str(parent), "limit": str(row["max_asset_bytes"])},
        )
