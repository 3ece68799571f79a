"""
`modelyard assets …`
"""

from __future__ import annotations

import argparse
import re
import uuid
from pathlib import Path

from modelyard.cdn.v1 import assets_pb2 as pb
from modelyard.cdn.v1 import delivery_pb2
from modelyard.cli.names import VersionRef, asset_name
from modelyard.cli.output import Column, Output, count, time_of
from modelyard.cli.parsing import Group, all_pages, command, duration, limit_argument, subcommands
from modelyard.cli.privacy import warning
from modelyard.cli.progress import ProgressBar, amount
from modelyard.cli.refs import resolve, version_or_model
from modelyard.client import Client
from modelyard.transfer import UploadSource

_NAMES_SHOWN = 20
# As many as one answer has.
_MOST_NAMES = 1000


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "assets", "manage assets: bytes named by their sha256")
    parser = command(commands, "put", put, "store files; stored bytes are not sent again")
    parser.add_argument("file", metavar="FILE", nargs="+", type=Path)
    parser.add_argument(
        "--media-type", default="", metavar="TYPE", help="media type, such as text/plain; default: by the file name"
    )
    parser.add_argument("--owner", default="", help="owner whose quota is charged: full name of a version")
    parser.add_argument(
        "--private",
        action="store_true",
        help="restrict reads to tokens with assets.read, and over HTTP to presigned URLs",
    )
    parser = command(
        commands, "get", get, "download an asset into a file and verify it; resume an interrupted download"
    )
    parser.add_argument("asset", metavar="SHA256")
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="target file; default: the digest")
    parser = command(commands, "ls", list_, "list assets")
    parser.add_argument("--owner", default="", help="only assets that this owner references: full name of a version")
    limit_argument(parser)
    command(commands, "stat", stat, "show an asset").add_argument("asset", metavar="SHA256")
    parser = command(commands, "rm", remove, "delete unreferenced assets")
    parser.add_argument("asset", metavar="SHA256", nargs="+")
    parser = command(commands, "url", url, "presign a URL with limited validity")
    parser.add_argument(
        "resource", type=_resource, metavar="SHA256|VERSION", help="asset, or all files of a version such as MODEL@3"
    )
    parser.add_argument("--ttl", type=duration, metavar="TIME", help="validity, such as 90s, 30m or 12h")
    parser.add_argument("--ip", default="", metavar="RANGE", help="allowed client addresses, such as 192.0.2.0/24")
    parser.add_argument("--name", default="", metavar="FILE", help="file name of the browser's download")
    parser = command(commands, "gc", collect, "collect garbage: delete unreferenced assets, then their bytes")
    parser.add_argument("--dry-run", action="store_true", help="report without deleting")
    parser.add_argument(
        "--grace", type=duration, metavar="TIME", help="minimum age of an unreferenced asset, such as 12h or 7d"
    )


def put(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Store files.
    """
    for file in args.file:
        with ProgressBar(f"hashing {file.name}") as progress:
            outgoing = UploadSource.of(file, args.media_type, progress)
        with ProgressBar(f"storing {file.name}") as progress:
            asset = yard.upload_file(outgoing, owner=args.owner, private=args.private, progress=progress)
        if args.private and not asset.private:
            output.warn(warning([outgoing]))
        show(output, asset)


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Write an asset into a file.
    """
    name = asset_name(args.asset)
    file = args.file or Path(name.removeprefix("assets/"))
    with ProgressBar(f"getting {file.name}") as progress:
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
    request = pb.ListAssetsRequest(owner=args.owner)
    output.many(all_pages(yard.assets.ListAssets, request, "assets", args.limit), columns, "no assets")


def stat(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show an asset.
    """
    show(output, yard.assets.GetAsset(pb.GetAssetRequest(name=asset_name(args.asset))))


def remove(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete assets.
    """
    for name in map(asset_name, args.asset):
        yard.assets.DeleteAsset(pb.DeleteAssetRequest(name=name, request_id=uuid.uuid4().hex))
        output.note(f"{name} is deleted; its bytes are deleted after the grace period")


def url(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Print a presigned URL of an asset or of the files of a version.
    """
    request = delivery_pb2.SignUrlRequest(ttl=args.ttl, ip_range=args.ip, download_name=args.name)
    if isinstance(args.resource, VersionRef):
        request.version = resolve(yard, args.resource)
    else:
        request.asset = args.resource
    signed = yard.delivery.SignUrl(request)
    output.line(signed, signed.url)
    output.note(f"until {time_of(signed.expire_time)} UTC")


def collect(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Collect garbage: mark unreferenced assets for deletion, and delete bytes whose grace period is over.
    """
    done = _collected(yard, pb.CollectGarbageRequest(grace=args.grace, dry_run=args.dry_run), output)
    if done.failed_count:
        output.warn(f"the object store did not delete the bytes of {done.failed_count:,} assets: run it again later")
    verb = "would be " if args.dry_run else ""
    facts = [
        (f"{verb}marked for deletion", f"{done.condemned_count:,} assets, {amount(done.condemned_bytes, 'B')}"),
        (f"bytes {verb}deleted", f"{done.deleted_count:,} assets, {amount(done.deleted_bytes, 'B')}"),
        *(("", name) for name in done.names[:_NAMES_SHOWN]),
        ("", "…" if done.condemned_count > _NAMES_SHOWN else ""),
    ]
    output.one(done, facts)


def _collected(yard: Client, request: pb.CollectGarbageRequest, output: Output) -> pb.CollectGarbageResponse:
    # The service limits the work of a call to some seconds.
    done = pb.CollectGarbageResponse()
    while True:
        part = yard.assets.CollectGarbage(request)
        done = pb.CollectGarbageResponse(
            condemned_count=done.condemned_count + part.condemned_count,
            condemned_bytes=done.condemned_bytes + part.condemned_bytes,
            deleted_count=done.deleted_count + part.deleted_count,
            deleted_bytes=done.deleted_bytes + part.deleted_bytes,
            failed_count=done.failed_count + part.failed_count,
            names=[*done.names, *part.names][:_MOST_NAMES],
        )
        if not part.next_page_token:
            return done
        request.page_token = part.next_page_token
        output.note(
            f"so far {done.condemned_count:,} assets marked for deletion, the bytes of {done.deleted_count:,} deleted"
        )


def _resource(text: str) -> VersionRef | str:
    return asset_name(text) if re.fullmatch(r"assets/.*|[0-9A-Fa-f]{64}", text) else version_or_model(text)


def show(output: Output, asset: pb.Asset) -> None:
    """
    Print an asset.
    """
    facts = [
        ("name", asset.name),
        ("size", f"{amount(asset.size_bytes, 'B')} ({asset.size_bytes:,} bytes)"),
        ("type", asset.media_type),
        ("format", pb.Asset.Format.Name(asset.format).removeprefix("FORMAT_").lower() if asset.format else ""),
        ("parameters", count(asset.parameter_count)),
        ("verdict", pb.Asset.Verdict.Name(asset.verdict).removeprefix("VERDICT_").lower() if asset.verdict else ""),
        ("loads", ", ".join(asset.loads)),
        ("warnings", "; ".join(asset.warnings)),
        ("encodings", ", ".join(asset.content_encodings)),
        ("private", "yes" if asset.private else ""),
        ("created", time_of(asset.create_time)),
    ]
    output.one(asset, facts)
