"""
`modelyard watch`
"""

from __future__ import annotations

import argparse
import sys
import time

import grpc
from google.protobuf.json_format import MessageToDict

from modelyard.changes.v1 import changes_pb2 as pb
from modelyard.cli.output import Output, json_line, plain, time_of
from modelyard.cli.parsing import Group, command
from modelyard.client import Client
from modelyard.error_details import explain

_LONGEST_PAUSE = 10.0


def add(group: Group) -> None:
    """
    Register the commands.
    """
    parser = command(group, "watch", watch, "stream the changes of the registry until Ctrl-C")
    parser.add_argument(
        "--from", dest="start", type=int, default=0, metavar="REVISION", help="first revision; default: the next one"
    )
    parser.add_argument(
        "--prefix", default="", metavar="NAME", help="full name of a resource; includes everything below it"
    )


def watch(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show changes. When the registry is away for a while, or the token was renewed, goes on where it was.
    """
    start, pause = args.start, 0.5
    while True:
        request = pb.WatchChangesRequest(start_revision=start, resource_prefix=args.prefix)
        came = False
        try:
            for event in yard.changes.WatchChanges(request):
                pause, came = 0.5, True
                start = _show(event, output)
        except grpc.RpcError as error:
            problem = explain(error)
            if came and problem.code is grpc.StatusCode.UNAUTHENTICATED:
                # A stream ends with its token. The file that it comes from may hold a new one.
                continue
            if problem.code is not grpc.StatusCode.UNAVAILABLE or not start:
                raise
            output.note(f"the registry is away: going on at revision {start} when it is back")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _show(event: pb.WatchChangesResponse, output: Output) -> int:
    """
    Print an event; returns the revision that comes next.
    """
    kind = event.WhichOneof("event")
    if kind == "heartbeat":
        return event.heartbeat.applied_revision + 1
    if kind == "discontinuity":
        gap = event.discontinuity
        print(f"the log begins at revision {gap.oldest_revision}: what was before is left out", file=sys.stderr)
        return gap.head_revision + 1
    revision = event.revision
    if output.json:
        print(json_line(MessageToDict(event)), flush=True)
        return revision.revision + 1
    for change in revision.changes:
        name = pb.Change.Kind.Name(change.kind).removeprefix("KIND_")
        # Of a new resource, whatever is below it is new as well.
        below = " and all below" if change.subtree and change.kind != pb.Change.KIND_CREATED else ""
        when = time_of(revision.commit_time)
        print(f"{revision.revision:>8}  {when}  {name:<7}  {plain(change.resource)}{below}", flush=True)
    return revision.revision + 1
