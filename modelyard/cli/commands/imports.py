"""
`modelyard import …`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelyard.cli import timm
from modelyard.cli.names import DEFAULT_NAMESPACE, namespace_name
from modelyard.cli.output import Output
from modelyard.cli.parsing import Group, command, subcommands
from modelyard.cli.progress import ProgressBar
from modelyard.client import Client
from modelyard.registry.v1 import imports_pb2 as pb

_FOLDER = Path("examples", "timm")


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "import", "import models in bulk")
    parser = command(
        commands, "timm", import_timm, "import the public timm leaderboard: 1,556 models with their results"
    )
    parser.add_argument("--path", type=Path, help="folder with models.csv and results.csv (examples/timm)")
    parser.add_argument("--namespace", metavar="NAMESPACE", default=DEFAULT_NAMESPACE)
    parser.add_argument("--batch", type=int, default=100, metavar="N", help="models per transaction, 1 to 1,000 (100)")
    parser.add_argument("--skip-existing", action="store_true", help="skip existing models")


def import_timm(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Import the timm leaderboard, batch by batch.
    """
    folder = args.path or find_folder()
    parent = namespace_name(args.namespace)
    requests = list(timm.batches(folder, parent, size=args.batch, skip_existing=args.skip_existing))
    models, done = sum(len(request.items) for request in requests), 0
    total = pb.ImportModelsResponse()
    with ProgressBar("importing", unit="models") as progress:
        progress(done, models)
        for request, response in zip(requests, yard.imports.ImportModels(iter(requests)), strict=True):
            for field in ("created_models", "skipped_models", "created_versions", "recorded_evaluations"):
                setattr(total, field, getattr(total, field) + getattr(response, field))
            total.revision = max(total.revision, response.revision)
            done += len(request.items)
            progress(done, models)
    facts = [
        ("models created", f"{total.created_models:,}"),
        ("models skipped", f"{total.skipped_models:,}"),
        ("versions created", f"{total.created_versions:,}"),
        ("results recorded", f"{total.recorded_evaluations:,}"),
        ("revision", str(total.revision)),
    ]
    output.one(total, facts)


def find_folder() -> Path:
    """
    The folder examples/timm of the checkout: below the current folder or one above it, or that of this very file.
    """
    here = Path.cwd()
    places = [here, *here.parents, Path(__file__).resolve().parents[3]]
    for place in places:
        if (place / _FOLDER / "models.csv").is_file():
            return place / _FOLDER
    raise FileNotFoundError(f"{_FOLDER}/models.csv is not here: say where with --path")
