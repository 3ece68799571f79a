"""
`modelyard versions label`, `copy`, `search`, `find` and `delete`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.labels import change_labels, label_change
from modelyard.cli.names import DEFAULT_NAMESPACE, model_name, namespace_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument
from modelyard.cli.progress import amount
from modelyard.cli.refs import resolve, version_argument
from modelyard.cli.versions import show, state
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb


def add(commands: Group) -> None:
    """
    Register the commands.
    """
    parser = command(commands, "label", label, "set and remove labels of a version; keep the others")
    version_argument(parser)
    parser.add_argument(
        "labels", type=label_change, nargs="+", metavar="KEY=VALUE", help="label to set, or KEY- to remove one"
    )
    parser = command(commands, "copy", copy, "copy a READY version to another model without copying bytes")
    version_argument(parser)
    parser.add_argument("model", metavar="MODEL", help="target model, in any namespace")
    parser = command(commands, "search", search, "find versions of a namespace or a model by a filter")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--namespace", metavar="NAMESPACE", default="", help=f"default: {DEFAULT_NAMESPACE}")
    where.add_argument("--model", metavar="MODEL", help="only the versions of this model")
    parser.add_argument(
        "--filter",
        default="",
        help="such as 'stage = Production AND run:* AND labels.team = vision', 'like(source, \"s3://%%\")' or "
        "'update_time > 2026-01-31'",
    )
    parser.add_argument(
        "--order-by", default="", metavar="FIELDS", help="such as 'model, number desc'; default: newest update first"
    )
    limit_argument(parser)
    parser = command(commands, "find", find, "find the READY versions that contain a file, by its digest")
    parser.add_argument("--sha256", required=True, metavar="DIGEST")
    parser.add_argument("--namespace", default="-", help="namespace to search; default: all")
    limit_argument(parser)
    parser = command(commands, "delete", delete, "delete a version permanently; its number is not reused")
    version_argument(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="delete it even if aliases point at it (they are removed) or a deployment runs it",
    )


def label(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Set and remove labels of a version.
    """
    version = pb.Version(name=resolve(yard, args.version))
    paths = change_labels(version.labels, args.labels)
    request = pb.UpdateVersionRequest(version=version, request_id=uuid.uuid4().hex)
    request.update_mask.paths.extend(paths)
    show(output, yard.versions.UpdateVersion(request))


def copy(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Copy a version.
    """
    source = resolve(yard, args.version)
    request = pb.CopyVersionRequest(parent=model_name(args.model), source=source, request_id=uuid.uuid4().hex)
    show(output, yard.versions.CopyVersion(request))


def search(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Find versions by a filter.
    """
    parent = model_name(args.model) if args.model else namespace_name(args.namespace or DEFAULT_NAMESPACE)
    request = pb.SearchVersionsRequest(parent=parent, filter=args.filter, order_by=args.order_by)
    columns: list[Column[pb.Version]] = [
        Column("VERSION", lambda each: each.name),
        Column("STATE", state),
        Column("STAGE", lambda each: each.stage),
        Column("RUN", lambda each: each.lineage.run),
        Column("SIZE", lambda each: amount(each.size_bytes, "B"), right=True),
        Column("UPDATED", lambda each: time_of(each.update_time)),
    ]
    output.many(all_pages(yard.versions.SearchVersions, request, "versions", args.limit), columns, "no version matches")


def find(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Find the versions that contain a file.
    """
    request = pb.FindVersionsRequest(parent=namespace_name(args.namespace), sha256=args.sha256.lower())
    columns: list[Column[pb.FindVersionsResponse.Match]] = [
        Column("VERSION", lambda each: each.version),
        Column("PATH", lambda each: ", ".join(each.paths)),
        Column("CREATED", lambda each: time_of(each.create_time)),
    ]
    found = all_pages(yard.versions.FindVersions, request, "matches", args.limit)
    output.many(found, columns, "no READY version contains it")


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete a version.
    """
    name = resolve(yard, args.version)
    version = yard.versions.DeleteVersion(
        pb.DeleteVersionRequest(name=name, force=args.force, request_id=uuid.uuid4().hex)
    )
    output.note(f"{version.name} is deleted: bytes that no other version has may be collected in some minutes")
