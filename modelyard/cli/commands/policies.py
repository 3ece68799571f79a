"""
`modelyard policies …`
"""

from __future__ import annotations

import argparse
import re
import uuid
from collections.abc import Callable, Iterable

import grpc

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import namespace_name
from modelyard.cli.output import Output
from modelyard.cli.parsing import Group, command, subcommands
from modelyard.client import Client
from modelyard.error_details import explain
from modelyard.registry.v1 import policies_pb2 as pb

ROLES = ("reader", "writer", "maintainer", "owner")
_REGISTRY = "-"
_ATTEMPTS = 5
_MEMBERS = re.compile(r"authenticated|everyone|(user|group):.+")
_WHERE = "a namespace, or - for the policy of the registry, which applies to all namespaces"
_MEMBER = "user:SUBJECT, group:NAME, authenticated or everyone"


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "policies", "manage who may do what in which namespace")
    parser = command(commands, "get", get, "show a policy")
    parser.add_argument("namespace", metavar="NAMESPACE", help=_WHERE)
    parser = command(commands, "grant", grant, "bind members to a role, in place of the one that they have")
    parser.add_argument("namespace", metavar="NAMESPACE", help=_WHERE)
    parser.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    parser.add_argument("members", nargs="+", metavar="MEMBER", help=_MEMBER)
    parser = command(commands, "revoke", revoke, "remove members from a policy")
    parser.add_argument("namespace", metavar="NAMESPACE", help=_WHERE)
    parser.add_argument("members", nargs="+", metavar="MEMBER", help=_MEMBER)
    parser = command(commands, "hide", hide, "make a namespace private: it exists for its own members only")
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser = command(commands, "unhide", unhide, "let the policy of the registry apply to a namespace again")
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser = command(commands, "test", test, "show your role and list what you may do in a namespace")
    parser.add_argument("namespace", metavar="NAMESPACE", help=_WHERE)


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a policy.
    """
    show(output, yard.policies.GetPolicy(pb.GetPolicyRequest(name=_name(args.namespace))))


def grant(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Bind members to a role.
    """
    role = pb.Policy.Role.Value(f"ROLE_{args.role.upper()}")

    def change(policy: pb.Policy) -> None:
        _remove(policy, args.members)
        for binding in policy.bindings:
            if binding.role == role:
                binding.members.extend(args.members)
                return
        policy.bindings.add(role=role, members=args.members)

    _change(yard, args.namespace, change, output)


def revoke(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Remove members from a policy.
    """
    if wrong := [each for each in args.members if not _MEMBERS.fullmatch(each)]:
        # Otherwise a typing mistake would look like a member whose access has ended.
        raise RefusedError(f"{wrong[0]!r} is not a member: {_MEMBER}")

    def change(policy: pb.Policy) -> None:
        bound = {member for binding in policy.bindings for member in binding.members}
        if absent := [each for each in args.members if each not in bound]:
            output.note(f"bound to no role in {policy.name}: {', '.join(absent)}")
        _remove(policy, args.members)

    _change(yard, args.namespace, change, output)


def hide(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Make a namespace private.
    """
    _change(yard, args.namespace, lambda policy: setattr(policy, "private", True), output)


def unhide(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Make a namespace no longer private.
    """
    _change(yard, args.namespace, lambda policy: setattr(policy, "private", False), output)


def test(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List the caller's permissions.
    """
    resource = "" if args.namespace == _REGISTRY else namespace_name(args.namespace)
    found = yard.policies.TestPermissions(pb.TestPermissionsRequest(resource=resource))
    output.one(found, [("role", role_of(found.permissions)), ("permissions", " ".join(found.permissions) or "none")])


def role_of(permissions: Iterable[str]) -> str:
    """
    The role that has these permissions, by the one that each role adds; none without any.
    """
    adds = {"owner": "policies.write", "maintainer": "aliases.write", "writer": "models.write", "reader": "models.read"}
    return next((role for role, permission in adds.items() if permission in permissions), "none")


def show(output: Output, policy: pb.Policy) -> None:
    """
    Print a policy.
    """
    facts = [("name", policy.name), ("private", "yes" if policy.private else "no")]
    facts += [
        (pb.Policy.Role.Name(binding.role).removeprefix("ROLE_").lower(), ", ".join(sorted(binding.members)))
        for binding in policy.bindings
    ]
    output.one(policy, facts)


def _name(namespace: str) -> str:
    return "policy" if namespace == _REGISTRY else f"{namespace_name(namespace)}/policy"


def _change(yard: Client, namespace: str, change: Callable[[pb.Policy], object], output: Output) -> None:
    """
    Read, change and write a policy; its etag prevents that somebody else's change is lost. A policy that is as wanted
    already is not written: the audit log would show a change.
    """
    for left in reversed(range(_ATTEMPTS)):
        policy = yard.policies.GetPolicy(pb.GetPolicyRequest(name=_name(namespace)))
        before = _said(policy)
        change(policy)
        if _said(policy) == before:
            break
        try:
            policy = yard.policies.SetPolicy(pb.SetPolicyRequest(policy=policy, request_id=uuid.uuid4().hex))
            break
        except grpc.RpcError as error:
            # Somebody else was faster.
            if not left or explain(error).reason != "ETAG_MISMATCH":
                raise
    show(output, policy)


def _said(policy: pb.Policy) -> tuple[bool, dict[int, set[str]]]:
    return policy.private, {binding.role: set(binding.members) for binding in policy.bindings}


def _remove(policy: pb.Policy, members: list[str]) -> None:
    for binding in policy.bindings:
        binding.members[:] = [each for each in binding.members if each not in members]
    kept = [binding for binding in policy.bindings if binding.members]
    del policy.bindings[:]
    policy.bindings.extend(kept)
