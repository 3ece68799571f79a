"""
`modelyard aliases …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.names import model_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, subcommands, timestamp
from modelyard.cli.refs import resolve_in_model
from modelyard.client import Client
from modelyard.registry.v1 import aliases_pb2 as pb


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "aliases", "manage aliases: names that point at versions, such as production")
    parser = command(commands, "list", list_, "list the aliases of a model")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--version", default="", metavar="VERSION", help="only aliases that point at this version")
    limit_argument(parser)
    parser = command(commands, "get", get, "show an alias")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser.add_argument(
        "--at", type=timestamp, metavar="TIME", help="point in time, such as 2026-01-31T12:00; default: now"
    )
    parser = command(commands, "history", history, "list the history of an alias, the newest first")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    limit_argument(parser)
    parser = command(
        commands, "rollback", rollback, "point an alias at its previous version; repeat to go further back"
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser.add_argument(
        "--expect", default="", metavar="VERSION", help="precondition: the version that it points at now"
    )
    parser = command(commands, "remove", remove, "remove an alias; its history is retained")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser = command(commands, "set", set_, "point an alias at a version; create the alias if needed")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser.add_argument("version", metavar="VERSION", help="version number, alias, latest, or full reference")
    condition = parser.add_mutually_exclusive_group()
    condition.add_argument(
        "--expect", default="", metavar="VERSION", help="precondition: the version that it points at now"
    )
    condition.add_argument("--if-absent", action="store_true", help="precondition: the alias does not exist")


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List the aliases of a model.
    """
    model = model_name(args.model)
    request = pb.ListAliasesRequest(parent=model, version=resolve_in_model(yard, model, args.version))
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
    request = pb.GetAliasRequest(name=_name(args))
    if args.at is not None:
        request.read_time.FromDatetime(args.at)
    show(output, yard.aliases.GetAlias(request))


def history(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show where an alias pointed when.
    """
    columns: list[Column[pb.AliasMove]] = [
        Column("VERSION", lambda each: each.version.rpartition("/")[2] or "removed", right=True),
        Column("FROM", lambda each: time_of(each.start_time)),
        Column("UNTIL", lambda each: time_of(each.end_time) if each.HasField("end_time") else "now"),
        Column("BY", lambda each: each.actor),
        Column("REVISION", lambda each: str(each.revision), right=True),
    ]
    request = pb.ListAliasMovesRequest(parent=_name(args))
    output.many(all_pages(yard.aliases.ListAliasMoves, request, "moves", args.limit), columns, "no moves")


def rollback(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Point an alias at what it pointed at before its last move.
    """
    expected = resolve_in_model(yard, model_name(args.model), args.expect)
    request = pb.RollbackAliasRequest(name=_name(args), expected_version=expected, request_id=uuid.uuid4().hex)
    show(output, yard.aliases.RollbackAlias(request))


def remove(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Remove an alias.
    """
    move = pb.MoveAliasesRequest.Move(alias_id=args.alias)
    request = pb.MoveAliasesRequest(parent=model_name(args.model), moves=[move], request_id=uuid.uuid4().hex)
    yard.aliases.MoveAliases(request)
    output.note(f"{_name(args)} is deleted")


def _name(args: argparse.Namespace) -> str:
    return f"{model_name(args.model)}/aliases/{args.alias}"


def set_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Point an alias at a version.
    """
    model = model_name(args.model)
    move = pb.MoveAliasesRequest.Move(
        alias_id=args.alias,
        version=resolve_in_model(yard, model, args.version),
        expected_version=resolve_in_model(yard, model, args.expect),
        expected_absent=args.if_absent,
    )
    request = pb.MoveAliasesRequest(parent=model, moves=[move], request_id=uuid.uuid4().hex)
    for alias in yard.aliases.MoveAliases(request).aliases:
        show(output, alias)


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
