"""
`modelyard namespaces …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.names import namespace_name
from modelyard.cli.output import Column, Output, count, pairs, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, pair, subcommands
from modelyard.client import Client
from modelyard.registry.v1 import namespaces_pb2 as pb


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "namespaces", "manage namespaces, which contain the models")
    limit_argument(command(commands, "list", list_, "list namespaces"))
    get_parser = command(commands, "get", get, "show a namespace")
    get_parser.add_argument("namespace", metavar="NAMESPACE")
    parser = command(commands, "create", create, "add a namespace")
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser.add_argument("--display-name", default="")
    parser.add_argument("--description", default="")
    parser.add_argument("--owner", default="", help="responsible person or team")
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")
    parser = command(commands, "update", update, "change what is given of a namespace, and leave the rest")
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser.add_argument("--display-name")
    parser.add_argument("--description")
    parser.add_argument("--owner", help="responsible person or team")
    parser.add_argument(
        "--label", type=pair, action="append", metavar="KEY=VALUE", help="label to set; KEY= removes one"
    )
    parser.add_argument("--max-models", type=int, metavar="N", help="how many models it may hold; 0 for any number")
    parser.add_argument("--max-asset-bytes", type=int, metavar="N", help="how large its versions may be in all")
    parser = command(commands, "delete", delete, "remove an empty namespace")
    parser.add_argument("namespace", metavar="NAMESPACE")


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List namespaces.
    """
    found = all_pages(yard.namespaces.ListNamespaces, pb.ListNamespacesRequest(), "namespaces", args.limit)
    columns: list[Column[pb.Namespace]] = [
        Column("NAME", lambda each: each.name.removeprefix("namespaces/")),
        Column("OWNER", lambda each: each.owner),
        Column("CREATED", lambda each: time_of(each.create_time)),
    ]
    output.many(found, columns, "no namespaces")


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a namespace.
    """
    show(output, yard.namespaces.GetNamespace(pb.GetNamespaceRequest(name=namespace_name(args.namespace))))


def create(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Add a namespace.
    """
    namespace = pb.Namespace(
        display_name=args.display_name, description=args.description, owner=args.owner, labels=dict(args.label)
    )
    request = pb.CreateNamespaceRequest(
        namespace_id=args.namespace.removeprefix("namespaces/"), namespace=namespace, request_id=uuid.uuid4().hex
    )
    show(output, yard.namespaces.CreateNamespace(request))


def update(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Change a namespace. What there is of labels and quotas is read first; the etag keeps two who do that at once from
    losing one.
    """
    namespace = yard.namespaces.GetNamespace(pb.GetNamespaceRequest(name=namespace_name(args.namespace)))
    paths = [field for field in ("display_name", "description", "owner") if getattr(args, field) is not None]
    for field in paths:
        setattr(namespace, field, getattr(args, field))
    for key, value in args.label or ():
        if value:
            namespace.labels[key] = value
        else:
            namespace.labels.pop(key, None)
    quotas = [field for field in ("max_models", "max_asset_bytes") if getattr(args, field) is not None]
    for field in quotas:
        setattr(namespace.quota, field, getattr(args, field))
    request = pb.UpdateNamespaceRequest(namespace=namespace, request_id=uuid.uuid4().hex)
    request.update_mask.paths.extend([*paths, *(["labels"] if args.label else []), *(["quota"] if quotas else [])])
    show(output, yard.namespaces.UpdateNamespace(request))


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Remove an empty namespace.
    """
    name = namespace_name(args.namespace)
    yard.namespaces.DeleteNamespace(pb.DeleteNamespaceRequest(name=name, request_id=uuid.uuid4().hex))
    output.note(f"{name} is deleted")


def show(output: Output, namespace: pb.Namespace) -> None:
    """
    Print a namespace.
    """
    facts = [
        ("name", namespace.name),
        ("display name", namespace.display_name),
        ("description", namespace.description),
        ("owner", namespace.owner),
        ("labels", pairs(namespace.labels.items())),
        ("models at most", count(namespace.quota.max_models)),
        ("asset bytes at most", count(namespace.quota.max_asset_bytes)),
        ("created", time_of(namespace.create_time)),
        ("updated", time_of(namespace.update_time)),
        ("revision", str(namespace.revision)),
    ]
    output.one(namespace, facts)
