"""
`modelyard rules …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.commands.policies import ROLES
from modelyard.cli.names import model_name, namespace_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, subcommands
from modelyard.client import Client
from modelyard.registry.v1 import alias_rules_pb2 as pb
from modelyard.registry.v1.policies_pb2 import Policy

_WHERE = "a namespace, or NAMESPACE/MODEL for the rules of one model"


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "rules", "manage rules that protect aliases, such as production")
    parser = command(commands, "list", list_, "list rules")
    parser.add_argument("parent", metavar="WHERE", help=_WHERE)
    limit_argument(parser)
    parser = command(commands, "get", get, "show a rule")
    parser.add_argument("parent", metavar="WHERE", help=_WHERE)
    parser.add_argument("rule", metavar="RULE")
    parser = command(commands, "set", set_, "create or replace a rule")
    parser.add_argument("parent", metavar="WHERE", help=_WHERE)
    parser.add_argument("rule", metavar="RULE", help="id of the rule")
    parser.add_argument("aliases", nargs="+", metavar="ALIAS", help="protected aliases: production, 'prod-*'")
    parser.add_argument(
        "--approvals", type=int, default=0, metavar="COUNT", help="approvals by others that a promotion needs"
    )
    parser.add_argument("--approvers", choices=ROLES[1:], metavar="ROLE", help="least role of an approver: maintainer")
    parser.add_argument("--mover-role", choices=ROLES, metavar="ROLE", help="least role of who may move the aliases")
    parser.add_argument(
        "--mover", action="append", default=[], metavar="MEMBER", help="member who may: user:SUBJECT, group:NAME"
    )
    parser.add_argument("--filter", default="", help="what has to hold of the version: a filter as in models search")
    parser.add_argument("--etag", default="", help="precondition: etag of the rule")
    parser = command(commands, "delete", delete, "delete a rule")
    parser.add_argument("parent", metavar="WHERE", help=_WHERE)
    parser.add_argument("rule", metavar="RULE")
    parser.add_argument("--etag", default="", help="precondition: etag of the rule")


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List rules.
    """
    request = pb.ListAliasRulesRequest(parent=_parent(args.parent))
    columns: list[Column[pb.AliasRule]] = [
        Column("RULE", lambda each: each.name.rpartition("/")[2]),
        Column("ALIASES", lambda each: " ".join(each.aliases)),
        Column("MOVERS", _movers),
        Column("APPROVALS", _approvals),
        Column("FILTER", lambda each: each.filter),
    ]
    output.many(all_pages(yard.alias_rules.ListAliasRules, request, "rules", args.limit), columns, "no rules")


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a rule.
    """
    _show(output, yard.alias_rules.GetAliasRule(pb.GetAliasRuleRequest(name=_name(args))))


def set_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Create or replace a rule.
    """
    rule = pb.AliasRule(
        name=_name(args),
        aliases=args.aliases,
        mover_role=_role(args.mover_role),
        movers=args.mover,
        filter=args.filter,
        required_approvals=args.approvals,
        approver_role=_role(args.approvers),
        etag=args.etag,
    )
    _show(output, yard.alias_rules.SetAliasRule(pb.SetAliasRuleRequest(rule=rule, request_id=uuid.uuid4().hex)))


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete a rule.
    """
    request = pb.DeleteAliasRuleRequest(name=_name(args), etag=args.etag, request_id=uuid.uuid4().hex)
    yard.alias_rules.DeleteAliasRule(request)
    output.note(f"{_name(args)} is deleted")


def _show(output: Output, rule: pb.AliasRule) -> None:
    facts = [
        ("name", rule.name),
        ("aliases", " ".join(rule.aliases)),
        ("movers", _movers(rule)),
        ("approvals", _approvals(rule)),
        ("filter", rule.filter or "none"),
        ("updated", time_of(rule.update_time)),
        ("etag", rule.etag),
    ]
    output.one(rule, facts)


def _movers(rule: pb.AliasRule) -> str:
    role = [_role_name(rule.mover_role)] if rule.mover_role else []
    return " ".join([*role, *rule.movers]) or "any maintainer"


def _approvals(rule: pb.AliasRule) -> str:
    count = rule.required_approvals
    return f"{count} ({_role_name(rule.approver_role)})" if count else "none"


def _role(name: str | None) -> Policy.Role.ValueType:
    return Policy.Role.Value(f"ROLE_{name.upper()}") if name else Policy.ROLE_UNSPECIFIED


def _role_name(role: Policy.Role.ValueType) -> str:
    return Policy.Role.Name(role).removeprefix("ROLE_").lower()


def _parent(text: str) -> str:
    full = text.startswith("namespaces/")
    return model_name(text) if not full and "/" in text else namespace_name(text)


def _name(args: argparse.Namespace) -> str:
    return f"{_parent(args.parent)}/aliasRules/{args.rule}"
