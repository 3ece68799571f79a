"""
The asset service's warnings about the files of a version.
"""

from __future__ import annotations

import grpc

from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.output import Output, plain
from modelyard.cli.parsing import all_pages
from modelyard.client import Client
from modelyard.paths import shown
from modelyard.registry.v1 import versions_pb2 as pb

_SHOWN = 10


def warn(yard: Client, version: pb.Version, output: Output) -> None:
    """
    Print the service's warnings about the files of a READY version; none if the call fails.
    """
    if version.state != pb.Version.STATE_READY:
        return
    request = assets_pb2.ListAssetsRequest(owner=version.name, page_size=1000)
    try:
        pages = all_pages(yard.assets.ListAssets, request, "assets", 0)
        warnings = {asset.sha256: asset.warnings for asset in pages if asset.warnings}
    except grpc.RpcError:
        return
    lines = [
        plain(f"{shown(artifact.path)}: {warning}")
        for artifact in version.artifacts
        for warning in warnings.get(artifact.sha256, ())
    ]
    for line in lines[:_SHOWN]:
        output.warn(line)
    if len(lines) > _SHOWN:
        output.warn(f"and {len(lines) - _SHOWN:,} more")
