"""
`modelyard versions label` and `delete`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.commands import versions
from modelyard.cli.labels import change_labels, label_change
from modelyard.cli.output import Output
from modelyard.cli.parsing import Group, command
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb


def add(commands: Group) -> None:
    """
    Say what there is.
    """
    parser = command(commands, "label", label, "set and remove labels of a version; others stay")
    versions.one_version(parser)
    parser.add_argument("labels", type=label_change, nargs="+", metavar="KEY=VALUE", help="or KEY- to remove one")
    parser = command(commands, "delete", delete, "delete a version for good; its number is not given again")
    versions.one_version(parser)
    parser.add_argument(
        "--force", action="store_true", help="even if aliases point at it (they are removed) or a deployment runs it"
    )


def label(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Set and remove labels of a version.
    """
    version = pb.Version(name=versions.resolve(yard, args.version))
    paths = change_labels(version.labels, args.labels)
    request = pb.UpdateVersionRequest(version=version, request_id=uuid.uuid4().hex)
    request.update_mask.paths.extend(paths)
    versions.show(output, yard.versions.UpdateVersion(request))


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete a version.
    """
    name = versions.resolve(yard, args.version)
    gone = yard.versions.DeleteVersion(
        pb.DeleteVersionRequest(name=name, force=args.force, request_id=uuid.uuid4().hex)
    )
    output.note(f"{gone.name} is deleted: its bytes may be collected in some minutes, unless another version has them")
