"""
`modelyard models …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.labels import change_labels, label_change
from modelyard.cli.names import DEFAULT_NAMESPACE, model_name, namespace_name, split_model
from modelyard.cli.output import Column, Output, count, pairs, time_of
from modelyard.cli.parsing import (
    Group,
    all_pages,
    command,
    confirmation_argument,
    limit_argument,
    namespace_argument,
    namespace_of,
    pair,
    subcommands,
)
from modelyard.client import Client
from modelyard.registry.v1 import models_pb2 as pb

_TEXTS = {
    "display_name": "display name",
    "description": "description",
    "owner": "responsible person or team",
    "task": "task, such as image-classification",
    "framework": "framework, such as pytorch",
    "license": "SPDX license identifier, such as Apache-2.0",
}
_COLUMNS: list[Column[pb.Model]] = [
    Column("NAME", lambda each: each.name.removeprefix("namespaces/").replace("/models/", "/", 1)),
    Column("TASK", lambda each: each.task),
    Column("PARAMETERS", lambda each: count(each.parameter_count), right=True),
    Column("VERSIONS", lambda each: count(each.latest_version), right=True),
    Column("UPDATED", lambda each: time_of(each.update_time)),
]


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "models", "manage models")
    parser = command(commands, "list", list_, "list the models of a namespace")
    namespace_argument(parser)
    parser.add_argument("--deleted", action="store_true", help="include soft-deleted models")
    limit_argument(parser)
    parser = command(commands, "search", search, "find models by words and by a filter, best match first")
    parser.add_argument("query", metavar="WORD", nargs="*", help="search terms; all must match")
    parser.add_argument(
        "--filter",
        default="",
        help="such as 'parameter_count < 1e8 AND evaluations.imagenet.top1 > 85', 'description:\"two words\"', "
        "'update_time > 2026-01-31' or 'latest_version >= 2'",
    )
    parser.add_argument(
        "--order-by",
        default="",
        metavar="FIELDS",
        help="such as 'parameter_count desc, name' or 'evaluations.\"GLUE/SST-2\".accuracy desc'",
    )
    parser.add_argument("--namespace", metavar="NAMESPACE", default=DEFAULT_NAMESPACE)
    limit_argument(parser, 20)
    command(commands, "get", get, "show a model").add_argument("model", metavar="MODEL")
    parser = command(commands, "create", create, "add a model")
    _settable(parser)
    parser.add_argument(
        "--replace-deleted", action="store_true", help="purge a deleted model of that name permanently first"
    )
    _settable(command(commands, "update", update, "update the given fields of a model"))
    parser = command(commands, "label", label, "set and remove labels of a model; keep the others")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "labels", type=label_change, nargs="+", metavar="KEY=VALUE", help="label to set, or KEY- to remove one"
    )
    parser = command(commands, "delete", delete, "delete a model; undelete restores it until it is purged")
    parser.add_argument("model", metavar="MODEL")
    parser = command(commands, "undelete", undelete, "restore a deleted model")
    parser.add_argument("model", metavar="MODEL")
    parser = command(commands, "purge", purge, "remove a deleted model permanently, with its versions and results")
    parser.add_argument("model", metavar="MODEL")
    confirmation_argument(parser, "permanently")


def _settable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="resnet50, default/resnet50 or the full name")
    for field, help_ in _TEXTS.items():
        parser.add_argument(f"--{field.replace('_', '-')}", metavar="TEXT", help=help_)
    parser.add_argument("--parameter-count", type=int, metavar="N", help="number of trainable parameters")
    parser.add_argument(
        "--label", type=pair, action="append", metavar="KEY=VALUE", help="label to set; KEY= removes one"
    )


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List the models of a namespace.
    """
    request = pb.ListModelsRequest(parent=namespace_of(args), show_deleted=args.deleted)
    output.many(all_pages(yard.models.ListModels, request, "models", args.limit), _COLUMNS, "no models")


def search(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Find models.
    """
    request = pb.SearchModelsRequest(
        parent=namespace_name(args.namespace),
        query=" ".join(args.query),
        filter=args.filter,
        order_by=args.order_by,
    )
    output.many(all_pages(yard.models.SearchModels, request, "models", args.limit), _COLUMNS, "no model matches")


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a model.
    """
    show(output, yard.models.GetModel(pb.GetModelRequest(name=model_name(args.model))))


def create(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Add a model.
    """
    parent, model_id = split_model(args.model)
    model = pb.Model()
    _fill(model, args)
    request = pb.CreateModelRequest(parent=parent, model_id=model_id, model=model, request_id=uuid.uuid4().hex)
    request.replace_deleted = args.replace_deleted
    show(output, yard.models.CreateModel(request))


def update(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Change a model. Labels that are not given stay.
    """
    model = pb.Model(name=model_name(args.model))
    request = pb.UpdateModelRequest(request_id=uuid.uuid4().hex)
    request.update_mask.paths.extend(_fill(model, args))
    request.model.CopyFrom(model)
    show(output, yard.models.UpdateModel(request))


def label(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Set and remove labels of a model.
    """
    request = pb.UpdateModelRequest(model=pb.Model(name=model_name(args.model)), request_id=uuid.uuid4().hex)
    request.update_mask.paths.extend(change_labels(request.model.labels, args.labels))
    show(output, yard.models.UpdateModel(request))


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete a model.
    """
    request = pb.DeleteModelRequest(name=model_name(args.model), request_id=uuid.uuid4().hex)
    show(output, yard.models.DeleteModel(request))


def undelete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Take a deletion back.
    """
    request = pb.UndeleteModelRequest(name=model_name(args.model), request_id=uuid.uuid4().hex)
    show(output, yard.models.UndeleteModel(request))


def purge(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Remove a deleted model for good.
    """
    name = model_name(args.model)
    yard.models.PurgeModel(pb.PurgeModelRequest(name=name, request_id=uuid.uuid4().hex))
    output.note(f"{name} is deleted")


def _fill(model: pb.Model, args: argparse.Namespace) -> list[str]:
    given = [field for field in (*_TEXTS, "parameter_count") if getattr(args, field) is not None]
    for field in given:
        setattr(model, field, getattr(args, field))
    return given + change_labels(model.labels, args.label or ())


def show(output: Output, model: pb.Model) -> None:
    """
    Print a model.
    """
    facts = [
        ("name", model.name),
        *((field.replace("_", " "), getattr(model, field)) for field in _TEXTS),
        ("parameters", count(model.parameter_count)),
        ("labels", pairs(model.labels.items())),
        ("annotations", pairs(model.annotations.items())),
        ("latest version", count(model.latest_version)),
        ("created", time_of(model.create_time)),
        ("updated", time_of(model.update_time)),
        ("deleted", time_of(model.delete_time)),
        ("purged at", time_of(model.purge_time)),
        ("revision", str(model.revision)),
        ("etag", model.etag),
    ]
    output.one(model, facts)
