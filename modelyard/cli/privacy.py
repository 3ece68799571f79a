"""
Warnings of `--private`: bytes that are already stored publicly remain public.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelyard.cdn.v1 import assets_pb2
from modelyard.client import Client
from modelyard.transfer import UploadSource

_NAMES_SHOWN = 5


def public_already(yard: Client, files: Iterable[UploadSource]) -> list[UploadSource]:
    """
    The files whose bytes are already stored publicly.

    Raises:
        grpc.RpcError: FindMissing failed.
    """
    files = list(files)
    request = assets_pb2.FindMissingRequest(sha256={file.sha256 for file in files}, private=True)
    public = set(yard.assets.FindMissing(request).public) if files else set()
    return [file for file in files if file.sha256 in public]


def warning(files: list[UploadSource]) -> str:
    """
    The warning that names these files.
    """
    names = ", ".join(str(file.path) for file in files[:_NAMES_SHOWN])
    more = f" and {len(files) - _NAMES_SHOWN:,} more" if len(files) > _NAMES_SHOWN else ""
    return f"not private, because somebody has stored these bytes publicly: {names}{more}"
