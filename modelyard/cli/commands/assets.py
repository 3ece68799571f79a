"""
`modelyard assets …`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cli.names import asset_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limited, subcommands
from modelyard.cli.progress import Progress, amount
from modelyard.client import Client


def add(group: Group) -> None:
    """
    Say what there is.
    """
    commands = subcommands(group, "assets", "bytes, named by their sha256")
    parser = command(commands, "put", put, "store files; bytes that are there already are not sent")
    parser.add_argument("file", metavar="FILE", nargs="+", type=Path)
    parser.add_argument("--media-type", default="", metavar="TYPE", help="such as text/plain; by default from the name")
    parser = command(commands, "get", get, "write an asset into a file, verified; an interrupted one goes on")
    parser.add_argument("asset", metavar="SHA256")
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="named by the digest by default")
    limited(command(commands, "ls", list_, "list assets"))
    command(commands, "stat", stat, "show an asset").add_argument("asset", metavar="SHA256")


def put(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Store files.
    """
    for file in args.file:
        with Progress(f"storing {file.name}") as progress:
            asset = yard.upload_file(file, media_type=args.media_type, progress=progress)
        show(output, asset)


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Write an asset into a file.
    """
    name = asset_name(args.asset)
    file = args.file or Path(name.removeprefix("assets/"))
    with Progress(f"getting {file.name}") as progress:
        asset = yard.download_file(name, file, progress=progress)
    show(output, asset)


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List assets.
    """
    columns: list[Column[pb.Asset]] = [
        Column("SHA256", lambda each: each.sha256),
        Column("SIZE", lambda each: amount(each.size_bytes, "B"), right=True),
        Column("TYPE", lambda each: each.media_type),
        Column("CREATED", lambda each: time_of(each.create_time)),
    ]
    output.many(all_pages(yard.assets.ListAssets, pb.ListAssetsRequest(), "assets", args.limit), columns, "no assets")


def stat(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show an asset.
    """
    show(output, yard.assets.GetAsset(pb.GetAssetRequest(name=asset_name(args.asset))))


def show(output: Output, asset: pb.Asset) -> None:
    """
    Print an asset.
    """
    facts = [
        ("name", asset.name),
        ("size", f"{amount(asset.size_bytes, 'B')} ({asset.size_bytes:,} bytes)"),
        ("type", asset.media_type),
        ("format", pb.Asset.Format.Name(asset.format).removeprefix("FORMAT_").lower() if asset.format else ""),
        ("warnings", "; ".join(asset.warnings)),
        ("created", time_of(asset.create_time)),
    ]
    output.one(asset, facts)
