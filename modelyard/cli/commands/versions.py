"""
`modelyard versions …`
"""

from __future__ import annotations

import argparse
import re
import uuid

from modelyard.cli.asset_warnings import warn
from modelyard.cli.commands import lifecycle, pull, push
from modelyard.cli.labels import change_labels
from modelyard.cli.names import FORMS, model_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, pair, subcommands
from modelyard.cli.progress import amount
from modelyard.cli.refs import fetch_version, resolve, version_argument, version_or_model
from modelyard.cli.versions import show, state
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "versions", "manage the versions of models")
    parser = command(commands, "list", list_, "list the versions of a model, the newest first")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--deleted", action="store_true", help="include deleted versions")
    limit_argument(parser)
    parser = command(commands, "get", get, "show a version and its files")
    parser.add_argument("version", type=version_or_model, metavar="VERSION", help=f"MODEL for its newest; or {FORMS}")
    parser = command(commands, "create", create, "add the next version of a model, in state PENDING")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--artifact",
        type=artifact,
        action="append",
        default=[],
        metavar="PATH=SHA256:SIZE",
        help="file of the version by its digest; repeatable",
    )
    parser.add_argument("--description", default="")
    parser.add_argument("--stage", default="", help="free-form label of its purpose")
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--parent-version", type=version_or_model, metavar="VERSION", help="parent version that it was trained from"
    )
    parser.add_argument("--training-data", action="append", default=[], metavar="NAME")
    parser.add_argument("--run", dest="lineage_run", default="", help="training run that produced it")
    parser.add_argument("--run-link", default="", metavar="URL", help="page of that run")
    parser.add_argument("--source", default="", metavar="URI", help="where it came from, for information")
    parser.add_argument("--git-commit", default="", metavar="COMMIT")
    version_argument(
        command(commands, "finalize", finalize, "verify that all files are stored and make the version READY")
    )

    push.add(commands)
    pull.add(commands)
    parser = command(commands, "update", update, "update the given fields of a version")
    version_argument(parser)
    parser.add_argument("--description")
    parser.add_argument("--stage", help="free-form label of its purpose")
    parser.add_argument("--run-link", metavar="URL", help="page of the run that produced it")
    parser.add_argument(
        "--label", type=pair, action="append", metavar="KEY=VALUE", help="label to set; KEY= removes one"
    )
    parser = command(commands, "fail", fail, "mark a PENDING version as failed")
    version_argument(parser)
    parser.add_argument("reason", metavar="REASON", help="reason of the failure; recorded with the version")
    lifecycle.add(commands)


def artifact(text: str) -> pb.Artifact:
    """
    ``path=sha256:size``, for options.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    match = re.fullmatch(r"(.+)=([0-9A-Fa-f]+):([0-9]{1,18})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=SHA256:SIZE")
    return pb.Artifact(path=match[1], sha256=match[2], size_bytes=int(match[3]))


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List the versions of a model.
    """
    request = pb.ListVersionsRequest(parent=model_name(args.model), show_deleted=args.deleted)
    columns: list[Column[pb.Version]] = [
        Column("VERSION", lambda each: str(each.number), right=True),
        Column("STATE", state),
        Column("STAGE", lambda each: each.stage),
        Column("FILES", lambda each: str(len(each.artifacts)), right=True),
        Column("SIZE", lambda each: amount(each.size_bytes, "B"), right=True),
        Column("CREATED", lambda each: time_of(each.create_time)),
    ]
    output.many(all_pages(yard.versions.ListVersions, request, "versions", args.limit), columns, "no versions")


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a version.
    """
    version = fetch_version(yard, args.version)
    show(output, version)
    warn(yard, version, output)


def create(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Add the next version of a model.
    """
    lineage = pb.Lineage(
        parent_version=resolve(yard, args.parent_version) if args.parent_version else "",
        training_data=args.training_data,
        run=args.lineage_run,
        git_commit=args.git_commit,
    )
    version = pb.Version(
        description=args.description,
        artifacts=args.artifact,
        lineage=lineage if lineage.ByteSize() else None,
        stage=args.stage,
        labels=dict(args.label),
        run_link=args.run_link,
        source=args.source,
    )
    request = pb.CreateVersionRequest(parent=model_name(args.model), version=version, request_id=uuid.uuid4().hex)
    show(output, yard.versions.CreateVersion(request))


def update(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Change a version. Labels that are not given stay.
    """
    version = pb.Version(name=resolve(yard, args.version))
    paths = [field for field in ("description", "stage", "run_link") if getattr(args, field) is not None]
    for field in paths:
        setattr(version, field, getattr(args, field))
    paths += change_labels(version.labels, args.label or ())
    request = pb.UpdateVersionRequest(version=version, request_id=uuid.uuid4().hex)
    request.update_mask.paths.extend(paths)
    show(output, yard.versions.UpdateVersion(request))


def fail(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Give a PENDING version up.
    """
    name = resolve(yard, args.version)
    request = pb.FailVersionRequest(name=name, failure=args.reason, request_id=uuid.uuid4().hex)
    show(output, yard.versions.FailVersion(request))


def finalize(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Verify that all files of a version are stored, and make it READY.
    """
    request = pb.FinalizeVersionRequest(name=resolve(yard, args.version), request_id=uuid.uuid4().hex)
    show(output, yard.versions.FinalizeVersion(request))
