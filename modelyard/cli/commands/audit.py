"""
`modelyard audit`
"""

from __future__ import annotations

import argparse
import json

from google.protobuf.json_format import MessageToDict

from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, timestamp
from modelyard.client import Client
from modelyard.registry.v1 import audit_pb2 as pb

_LONGEST = 60


def add(group: Group) -> None:
    """
    Register the commands.
    """
    parser = command(group, "audit", audit, "list audit entries, the newest first")
    parser.add_argument(
        "resource",
        metavar="NAME",
        nargs="?",
        default="",
        help="full name of a resource; includes everything below it",
    )
    parser.add_argument("--actor", default="", help="only calls of this subject")
    parser.add_argument("--action", default="", help="only this RPC, such as UpdateModel")
    parser.add_argument("--since", type=timestamp, metavar="TIME", help="start time, such as 2026-01-31T12:00")
    parser.add_argument("--until", type=timestamp, metavar="TIME", help="end time, exclusive")
    limit_argument(parser)


def audit(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show who did what.
    """
    request = pb.ListAuditEntriesRequest(resource_prefix=args.resource, actor=args.actor, action=args.action)
    if args.since is not None:
        request.start_time.FromDatetime(args.since)
    if args.until is not None:
        request.end_time.FromDatetime(args.until)
    columns: list[Column[pb.AuditEntry]] = [
        Column("REVISION", lambda each: str(each.revision), right=True),
        Column("TIME", lambda each: time_of(each.time)),
        Column("ACTOR", lambda each: each.actor),
        Column("ACTION", lambda each: f"{each.action} (admin)" if each.break_glass else each.action),
        Column("RESOURCE", lambda each: each.resource.removeprefix("namespaces/")),
        Column("CHANGE", change),
    ]
    output.many(all_pages(yard.audit.ListAuditEntries, request, "entries", args.limit), columns, "no entries")


def change(entry: pb.AuditEntry) -> str:
    """
    What of a resource is different, in short.
    """
    before, after = MessageToDict(entry.before), MessageToDict(entry.after)
    if not before:
        return ""
    told = [f"{key}={json.dumps(after[key], ensure_ascii=False)}" for key in after if after[key] != before.get(key)]
    text = " ".join(told)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
