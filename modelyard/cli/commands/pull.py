"""
`modelyard versions pull`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import FORMS
from modelyard.cli.output import Output
from modelyard.cli.parallel import resumable
from modelyard.cli.parsing import Group, command
from modelyard.cli.progress import ProgressBar, amount
from modelyard.cli.pull_plan import Target, changed, check_room, fetch, find, local_copies, targets
from modelyard.cli.pull_state import PullState
from modelyard.cli.refs import version_or_model
from modelyard.client import Client
from modelyard.paths import shown

_NAMES_SHOWN = 10


def add(commands: Group) -> None:
    """
    Register the commands.
    """
    parser = command(commands, "pull", pull, "download the files of a version into a folder and verify them")
    parser.add_argument("version", type=version_or_model, metavar="VERSION", help=f"MODEL for its newest; or {FORMS}")
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="target folder, created if needed; run the command again to resume"
    )
    parser.add_argument(
        "--exact", action="store_true", help="remove files of earlier pulls that this version does not have"
    )


def pull(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Download the files of a version into a folder. Files with the right bytes are kept; other files are not touched,
    except that --exact removes those of earlier pulls.
    """
    version = find(yard, args.version)
    wanted = targets(version, args.folder)
    args.folder.mkdir(parents=True, exist_ok=True)
    pulled = PullState(args.folder.resolve())
    others = pulled.others(each.artifact.path for each in wanted)
    if args.exact and (mine := pulled.changed(others)):
        raise RefusedError(
            f"nothing was written: {_some(mine)} was written by an earlier pull and changed since: move it away first"
        )
    with ProgressBar("comparing") as progress:
        missing = changed(yard, wanted, progress)
    copies = local_copies(wanted, missing)
    size = _size([each for each in missing if each.place not in copies])
    there = amount(_size(wanted) - size, "B")
    output.note(f"{version.name}: {len(wanted):,} files, {there} there already or twice, {amount(size, 'B')} to get")
    check_room(missing, args.folder)
    pulled.add({each.artifact.path: each.artifact.sha256 for each in wanted})
    with resumable("getting", _size(missing)) as total:
        fetch(yard, missing, copies, total)
    _leave(pulled, others, wanted, output, exact=args.exact)
    output.line(version, f"{version.name} is in {args.folder}")


def _leave(pulled: PullState, others: list[str], wanted: list[Target], output: Output, *, exact: bool) -> None:
    # Last: until all files of this version are in place, the others may be in use.
    if exact:
        pulled.remove(others)
        pulled.keep(each.artifact.path for each in wanted)
        if others:
            output.note(f"removed what earlier pulls wrote: {_some(others)}")
    elif others:
        output.warn(f"files of other versions are still there (--exact removes them): {_some(others)}")


def _some(paths: list[str]) -> str:
    more = [f"and {len(paths) - _NAMES_SHOWN:,} more"] if len(paths) > _NAMES_SHOWN else []
    return ", ".join([*map(shown, paths[:_NAMES_SHOWN]), *more])


def _size(files: list[Target]) -> int:
    return sum(each.artifact.size_bytes for each in files)
