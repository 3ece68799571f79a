"""
`modelyard versions push`
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from modelyard.cli import incomplete_files
from modelyard.cli.asset_warnings import warn
from modelyard.cli.folders import MOST_TARGET, Scan, ScannedFile, scan
from modelyard.cli.ignore_rules import IGNORE_FILE, Rules
from modelyard.cli.names import model_name
from modelyard.cli.output import Column, Output
from modelyard.cli.parallel import resumable
from modelyard.cli.parsing import Group, command, pair
from modelyard.cli.privacy import public_already, warning
from modelyard.cli.progress import ProgressBar, amount
from modelyard.cli.push_plan import Plan, artifacts, prepare, send, version_of
from modelyard.client import Client
from modelyard.paths import shown
from modelyard.registry.v1 import aliases_pb2, models_pb2
from modelyard.registry.v1 import versions_pb2 as pb

# Of the excluded files.
_NAMES_SHOWN = 10
_ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


def add(commands: Group) -> None:
    """
    Register the commands.
    """
    parser = command(commands, "push", push, "store a folder as the next version; stored files are not sent again")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder or single file; run the command again to resume"
    )
    rules = parser.add_argument_group(
        "selection of files",
        f"Patterns are as in a .gitignore. What the folder's {IGNORE_FILE} names is left out, and so are repositories, "
        "caches and secrets, such as .git, __pycache__ and .env; the command lists them. !PATTERN includes one again.",
    )
    rules.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="patterns of files to exclude; repeatable"
    )
    rules.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="patterns of the only files to send; repeatable",
    )
    rules.add_argument("--no-default-ignores", action="store_true", help="disable the default exclusions")
    rules.add_argument("--follow-links", action="store_true", help="follow links to files outside of the folder")
    rules.add_argument("--dry-run", action="store_true", help="list the files without sending them")
    parser.add_argument("--alias", type=_alias, metavar="ALIAS", help="alias to point at the new version")
    parser.add_argument("--description", default="")
    parser.add_argument("--stage", default="", help="free-form label of its purpose")
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--private",
        action="store_true",
        help="restrict reads to tokens with assets.read, and over HTTP to presigned URLs",
    )


def push(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Store a folder or one file as a version. Everything is validated before the first byte is sent.
    """
    rules = Rules.of(args.folder, defaults=not args.no_default_ignores, exclude=args.exclude, include=args.include)
    scanned = scan(args.folder, rules, follow_links=args.follow_links)
    _tell_scan(output, scanned)
    found = scanned.files
    for line in incomplete_files.warnings(found):
        output.warn(line)
    if args.dry_run:
        _list(output, found)
        return
    model = yard.models.GetModel(models_pb2.GetModelRequest(name=model_name(args.model))).name
    with ProgressBar("hashing") as progress:
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
        output.note("the newest version already has these files and fields")
    if args.alias:
        move = aliases_pb2.MoveAliasesRequest.Move(alias_id=args.alias, version=version.name)
        yard.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=model, moves=[move]))
        output.note(f"{args.alias} points at the version")
    warn(yard, version, output)
    output.line(version, version.name)


def _tell_scan(output: Output, scanned: Scan) -> None:
    if scanned.left_out:
        rules = f"see --no-default-ignores and {IGNORE_FILE}"
        output.note(f"{len(scanned.left_out):,} left out by the rules ({rules}): {_some(scanned.left_out)}")
    if scanned.empty:
        output.note(f"{len(scanned.empty):,} left out, since a version holds no empty folders: {_some(scanned.empty)}")
    if scanned.followed:
        links = [f"{shown(path)} -> {shown(str(target), MOST_TARGET)}" for path, target in scanned.followed]
        output.note(f"{len(links):,} sent from outside of the folder:")
        for link in links:
            output.note(link)


def _some(names: list[str]) -> str:
    more = [f"and {len(names) - _NAMES_SHOWN:,} more"] if len(names) > _NAMES_SHOWN else []
    return ", ".join([*map(shown, names[:_NAMES_SHOWN]), *more])


def _list(output: Output, found: list[ScannedFile]) -> None:
    columns: list[Column[pb.Artifact]] = [
        Column("FILE", lambda each: each.path),
        Column("SIZE", lambda each: amount(each.size_bytes, "B"), right=True),
    ]
    files = [pb.Artifact(path=each.path, size_bytes=each.size_bytes) for each in found]
    output.many(files, columns, "no files")
    size = sum(each.size_bytes for each in found)
    output.note(f"nothing was sent: {len(found):,} file{'s' if len(found) != 1 else ''}, {amount(size, 'B')}")


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
