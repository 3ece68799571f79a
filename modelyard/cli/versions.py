"""
Printing of versions.
"""

from __future__ import annotations

from modelyard.cli.output import Output, pairs, time_of
from modelyard.cli.progress import amount
from modelyard.registry.v1 import versions_pb2 as pb


def state(version: pb.Version) -> str:
    """
    The state as one word.
    """
    return pb.Version.State.Name(version.state).removeprefix("STATE_")


def show(output: Output, version: pb.Version) -> None:
    """
    Print a version and its files.
    """
    files = [(f"file {each.path}", f"{each.sha256}  {amount(each.size_bytes, 'B')}") for each in version.artifacts]
    facts = [
        ("name", version.name),
        ("state", state(version)),
        ("failure", version.failure),
        ("description", version.description),
        ("stage", version.stage),
        ("labels", pairs(version.labels.items())),
        ("annotations", ", ".join(sorted(version.annotations))),
        ("copied from", version.copied_from),
        ("trained from", version.lineage.parent_version),
        ("trained on", ", ".join(version.lineage.training_data)),
        ("run", version.lineage.run),
        ("run link", version.run_link),
        ("source", version.source),
        ("git commit", version.lineage.git_commit),
        ("size", amount(version.size_bytes, "B")),
        *files,
        ("created", time_of(version.create_time)),
        ("created by", version.actor),
        ("updated", time_of(version.update_time)),
        ("deleted", time_of(version.delete_time)),
        ("revision", str(version.revision)),
    ]
    output.one(version, facts)
