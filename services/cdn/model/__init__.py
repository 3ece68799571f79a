"""
Values and rules of assets; no I/O.
"""

from services.cdn.model.assets import (
    DEFAULT_MEDIA_TYPE,
    ENCODINGS,
    STAGING,
    Asset,
    Span,
    all_keys,
    asset_key,
    is_private,
    parse_part,
    staged_upload,
    staging_key,
    variant_key,
)
from services.cdn.model.names import (
    asset_name,
    check_owner,
    is_prefix,
    parse_digests,
    parse_name,
    parse_names,
    parse_upload,
)
from services.cdn.model.uploads import (
    MAX_CHUNK_BYTES,
    MOST_STREAM,
    UPLOAD_MEMORY_BYTES,
    Caller,
    ChunkSequence,
    Draft,
    Upload,
    UploadWay,
)

__all__ = [
    "DEFAULT_MEDIA_TYPE",
    "ENCODINGS",
    "MAX_CHUNK_BYTES",
    "MOST_STREAM",
    "STAGING",
    "UPLOAD_MEMORY_BYTES",
    "Asset",
    "Caller",
    "ChunkSequence",
    "Draft",
    "Span",
    "Upload",
    "UploadWay",
    "all_keys",
    "asset_key",
    "asset_name",
    "check_owner",
    "is_prefix",
    "is_private",
    "parse_digests",
    "parse_name",
    "parse_names",
    "parse_part",
    "parse_upload",
    "staged_upload",
    "staging_key",
    "variant_key",
]
