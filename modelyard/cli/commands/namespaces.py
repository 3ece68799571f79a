"""
`modelyard namespaces …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.names import namespace_name
from modelyard.cli.output import Column, Output, count, pairs, time_of
from modelyard.cli.parsing import Group, all_pages, command, limited, pair, subcommands
from modelyard.client import Client
from modelyard.registry.v1 import namespaces_pb2 as pb


def add(group: Group) -> None:
    """
    Say what there is.
    """
    commands = subcommands(group, "namespaces", "namespaces, in which models live")
    limited(command(commands, "list", list_, "list namespaces"))
    get_parser = command(commands, "get", get, "show a namespace")
    get_parser.add_argument("namespace", metavar="NAMESPACE")
    parser = command(commands, "create", create, "add a namespace")
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser.add_argument("--display-name", default="")
    parser.add_argument("--description", default="")
    parser.add_argument("--owner", default="", help="who answers for it")
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")


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
