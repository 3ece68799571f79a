"""
Conversion of database rows to values.
"""

from __future__ import annotations

from services.cdn.model import Asset
from services.ledger.store.servers import Row

#: The columns of an asset. `assets.revision` is `revision` in a row.
ASSET = (
    "assets.sha256, assets.size_bytes, assets.media_type, assets.private, assets.create_time, assets.revision, "
    "assets.format, assets.warnings, assets.encodings, assets.parameter_count, assets.verdict, assets.loads"
)


def to_asset(row: Row) -> Asset:
    """
    Convert a row to an asset.
    """
    return Asset(
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        media_type=row["media_type"],
        private=row["private"],
        create_time=row["create_time"],
        revision=row["revision"],
        format=row["format"],
        warnings=tuple(row["warnings"]),
        encodings=tuple(row["encodings"]),
        parameter_count=row["parameter_count"],
        verdict=row["verdict"],
        loads=tuple(row["loads"]),
    )
