"""
`modelyard versions delete`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.output import Output
from modelyard.cli.parsing import Group, command
from modelyard.cli.refs import one_version, resolve
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb


def add(commands: Group) -> None:
    """
    Say what there is.
    """
    parser = command(commands, "delete", delete, "delete a version for good; its number is not given again")
    one_version(parser)
    parser.add_argument(
        "--force", action="store_true", help="even if aliases point at it (they are removed) or a deployment runs it"
    )


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete a version.
    """
    name = resolve(yard, args.version)
    gone = yard.versions.DeleteVersion(
        pb.DeleteVersionRequest(name=name, force=args.force, request_id=uuid.uuid4().hex)
    )
    output.note(f"{gone.name} is deleted: its bytes may be collected in some minutes, unless another version has them")
