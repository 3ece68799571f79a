"""
`modelyard aliases …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.names import model_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limited, subcommands
from modelyard.client import Client
from modelyard.registry.v1 import aliases_pb2 as pb


def add(group: Group) -> None:
    """
    Say what there is.
    """
    commands = subcommands(group, "aliases", "names that point at versions, such as production")
    parser = command(commands, "list", list_, "list the aliases of a model")
    parser.add_argument("model", metavar="MODEL")
    limited(parser)
    parser = command(commands, "get", get, "show an alias")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser = command(commands, "set", set_, "point an alias at a version; it is made when it is not there")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser.add_argument("version", metavar="NUMBER", help="of the version")
    parser.add_argument("--expect", default="", metavar="NUMBER", help="only if it points at this version now")


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List the aliases of a model.
    """
    request = pb.ListAliasesRequest(parent=model_name(args.model))
    columns: list[Column[pb.Alias]] = [
        Column("ALIAS", lambda each: each.name.rpartition("/")[2]),
        Column("VERSION", lambda each: each.version.rpartition("/")[2], right=True),
        Column("SINCE", lambda each: time_of(each.move_time)),
        Column("BY", lambda each: each.actor),
    ]
    output.many(all_pages(yard.aliases.ListAliases, request, "aliases", args.limit), columns, "no aliases")


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show an alias.
    """
    show(output, yard.aliases.GetAlias(pb.GetAliasRequest(name=f"{model_name(args.model)}/aliases/{args.alias}")))


def set_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Point an alias at a version.
    """
    model = model_name(args.model)
    move = pb.MoveAliasesRequest.Move(
        alias_id=args.alias,
        version=_version(model, args.version),
        expected_version=_version(model, args.expect) if args.expect else "",
    )
    request = pb.MoveAliasesRequest(parent=model, moves=[move], request_id=uuid.uuid4().hex)
    for alias in yard.aliases.MoveAliases(request).aliases:
        show(output, alias)


def _version(model: str, text: str) -> str:
    return text if "/" in text else f"{model}/versions/{text}"


def show(output: Output, alias: pb.Alias) -> None:
    """
    Print an alias.
    """
    facts = [
        ("name", alias.name),
        ("version", alias.version),
        ("since", time_of(alias.move_time)),
        ("by", alias.actor),
        ("revision", str(alias.revision)),
    ]
    output.one(alias, facts)
