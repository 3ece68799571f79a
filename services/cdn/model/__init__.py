"""
Values and rules of assets; no I/O.
"""

from services.cdn.model.assets import DEFAULT_MEDIA_TYPE, Asset, Span, parse_part
from services.cdn.model.names import asset_name, parse_digests, parse_name
from services.cdn.model.pages import Page, next_token
from services.cdn.model.uploads import UPLOAD_MEMORY_BYTES, Draft, Intake

__all__ = [
    "DEFAULT_MEDIA_TYPE",
    "UPLOAD_MEMORY_BYTES",
    "Asset",
    "Draft",
    "Intake",
    "Page",
    "Span",
    "asset_name",
    "next_token",
    "parse_digests",
    "parse_name",
    "parse_part",
]
