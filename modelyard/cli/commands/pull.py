"""
`modelyard versions pull`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelyard.cli.names import FORMS
from modelyard.cli.output import Output
from modelyard.cli.parallel import resumable
from modelyard.cli.parsing import Group, command
from modelyard.cli.progress import Progress, amount
from modelyard.cli.pulling import Target, changed, fetch, find, targets
from modelyard.cli.refs import newest_or
from modelyard.client import Client


def add(commands: Group) -> None:
    """
    Say what there is.
    """
    parser = command(commands, "pull", pull, "write the files of a version into a folder, verified")
    parser.add_argument("version", type=newest_or, metavar="VERSION", help=f"MODEL for its newest; or {FORMS}")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made when it is not there; run it again to go on")


def pull(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Write the files of a version into a folder. Files that are right already stay, other files are not touched.
    """
    version = find(yard, args.version)
    wanted = targets(version, args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    with Progress("comparing") as progress:
        missing = changed(yard, wanted, progress)
    size = _size(missing)
    there = amount(_size(wanted) - size, "B")
    output.note(f"{version.name}: {len(wanted):,} files, {there} there already, {amount(size, 'B')} to get")
    with resumable("getting", size) as total:
        fetch(yard, missing, total)
    output.line(version, f"{version.name} is in {args.folder}")


def _size(files: list[Target]) -> int:
    return sum(each.artifact.size_bytes for each in files)
