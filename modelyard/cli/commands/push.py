"""
`modelyard versions push`
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from modelyard.cli.folders import scan
from modelyard.cli.names import model_name
from modelyard.cli.output import Output
from modelyard.cli.parallel import resumable
from modelyard.cli.parsing import Group, command, pair
from modelyard.cli.privacy import public_already, warning
from modelyard.cli.progress import Progress, amount
from modelyard.cli.pushing import Plan, artifacts, prepare, send, version_of
from modelyard.client import Client
from modelyard.registry.v1 import aliases_pb2, models_pb2
from modelyard.registry.v1 import versions_pb2 as pb

_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def add(commands: Group) -> None:
    """
    Say what there is.
    """
    parser = command(commands, "push", push, "store a folder as the next version; files that are there are not sent")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with everything in it; run it again to go on")
    parser.add_argument("--alias", type=_alias, metavar="ALIAS", help="point it at the version afterwards")
    parser.add_argument("--description", default="")
    parser.add_argument("--stage", default="", help="a free word for what it was made for")
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--private", action="store_true", help="only for tokens with assets.read, and over HTTP by signed URLs"
    )


def push(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Store a folder as a version. Everything that can be refused is refused before the first byte is sent.
    """
    found = scan(args.folder)
    model = yard.models.GetModel(models_pb2.GetModelRequest(name=model_name(args.model))).name
    with Progress("hashing") as progress:
        plan = prepare(yard, found, progress)
    _tell(output, plan)
    if args.private and (public := public_already(yard, plan.stored)):
        output.warn(warning(public))
    with resumable("sending", plan.missing_bytes) as total:
        send(yard, plan, args.private, total)
    wanted = pb.Version(
        artifacts=artifacts(found, plan.files),
        description=args.description,
        stage=args.stage,
        labels=dict(args.label),
    )
    version, there = version_of(yard, model, wanted)
    if there:
        output.note("the newest version is just like this already")
    if args.alias:
        move = aliases_pb2.MoveAliasesRequest.Move(alias_id=args.alias, version=version.name)
        yard.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=model, moves=[move]))
        output.note(f"{args.alias} points at it")
    output.line(version, version.name)


def _tell(output: Output, plan: Plan) -> None:
    files = f"{len(plan.files):,} file{'s' if len(plan.files) != 1 else ''}"
    size = sum(file.size_bytes for file in plan.files)
    there = amount(size - plan.missing_bytes, "B")
    output.note(
        f"{files}, {amount(size, 'B')}: {there} there already or twice in the folder, "
        f"{amount(plan.missing_bytes, 'B')} to send"
    )


def _alias(text: str) -> str:
    if not _ALIAS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} does not match {_ALIAS.pattern}")
    return text
