"""
`modelyard token` and `modelyard tokens …`
"""

from __future__ import annotations

import argparse
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from modelyard import tokens
from modelyard.cli.commands.policies import ROLES
from modelyard.cli.errors import RefusedError
from modelyard.cli.names import namespace_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import (
    Group,
    all_pages,
    command,
    duration,
    limit_argument,
    namespace_argument,
    namespace_of,
    subcommands,
)
from modelyard.client import Client
from modelyard.registry.v1 import policies_pb2
from modelyard.registry.v1 import tokens_pb2 as pb


def add(group: Group) -> None:
    """
    Register the commands.
    """
    parser = command(group, "token", mint, "create a development token for the embedded suite")
    # It is made here: nobody is called, and what calls need is not looked for.
    parser.set_defaults(token="", token_file=None, ca_file=None, cert_file=None, key_file=None)
    state = os.environ.get("MODELYARD_STATE") or ".modelyard/run"
    parser.add_argument("--scopes", required=True, metavar="SCOPES", help="scopes, separated by spaces or commas")
    parser.add_argument("--subject", required=True, metavar="NAME", help="subject of the token")
    parser.add_argument("--ttl", type=float, default=3600.0, metavar="SECONDS", help="validity in seconds (3600)")
    key = Path(state, "access", "key.pem")
    parser.add_argument(
        "--key", type=Path, default=key, metavar="FILE", help="signing key of the suite ($MODELYARD_STATE)"
    )
    commands = subcommands(group, "tokens", "manage API tokens, for machines without an identity provider")
    parser = command(commands, "create", create, "create an API token, and print its secret, which is shown only once")
    parser.add_argument("--namespace", required=True, metavar="NAMESPACE", help="the only one that it can write to")
    parser.add_argument("--role", required=True, choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    parser.add_argument(
        "--expires", required=True, type=duration, metavar="DURATION", help="validity, such as 90d; at most 366d"
    )
    parser.add_argument("--name", default="", metavar="TEXT", help="what it is for")
    parser.add_argument(
        "--scopes", default="", metavar="SCOPES", help="fewer scopes than the role's, separated by spaces or commas"
    )
    parser = command(commands, "list", list_, "list the API tokens of a namespace, the newest first")
    namespace_argument(parser)
    limit_argument(parser)
    parser = command(commands, "revoke", revoke, "revoke API tokens for good")
    parser.add_argument("--namespace", default="default", metavar="NAMESPACE", help="namespace; default: default")
    parser.add_argument("tokens", nargs="+", metavar="TOKEN", help="id, or namespaces/NAMESPACE/tokens/ID")


def create(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Create an API token. Its secret alone goes to stdout, so that it can be written to a file.
    """
    expires = datetime.now(UTC) + args.expires.ToTimedelta()
    token = pb.ApiToken(
        display_name=args.name,
        role=policies_pb2.Policy.Role.Value(f"ROLE_{args.role.upper()}"),
        scopes=args.scopes.replace(",", " ").split(),
    )
    token.expire_time.FromDatetime(expires)
    request = pb.CreateApiTokenRequest(
        parent=namespace_name(args.namespace), api_token=token, request_id=uuid.uuid4().hex
    )
    made = yard.api_tokens.CreateApiToken(request)
    if not made.secret:
        raise RefusedError(
            f"{made.api_token.name} was created, but its secret was lost on the way, and is shown only once: "
            f"modelyard tokens revoke {made.api_token.name}, and create another"
        )
    if output.json:
        output.line(made, "")
        return
    print(made.secret, flush=True)
    output.note(f"created {made.api_token.name}, which expires on {time_of(made.api_token.expire_time)}")


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List API tokens.
    """
    request = pb.ListApiTokensRequest(parent=namespace_of(args))
    found = all_pages(yard.api_tokens.ListApiTokens, request, "api_tokens", args.limit)
    columns: list[Column[pb.ApiToken]] = [
        Column("ID", lambda each: each.name.rpartition("/")[2]),
        Column("NAME", lambda each: each.display_name),
        Column("ROLE", lambda each: policies_pb2.Policy.Role.Name(each.role).removeprefix("ROLE_").lower()),
        Column("STATE", lambda each: pb.ApiToken.State.Name(each.state).removeprefix("STATE_").lower()),
        Column("CREATED BY", lambda each: each.creator),
        Column("EXPIRES", lambda each: time_of(each.expire_time)),
        Column("LAST USE", lambda each: time_of(each.last_use_time) if each.HasField("last_use_time") else "never"),
    ]
    output.many(found, columns, "no tokens")


def revoke(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Revoke API tokens.
    """
    for token in args.tokens:
        name = token if "/" in token else f"{namespace_name(args.namespace)}/tokens/{token}"
        revoked = yard.api_tokens.RevokeApiToken(pb.RevokeApiTokenRequest(name=name, request_id=uuid.uuid4().hex))
        output.line(revoked, f"revoked {revoked.name}")


def mint(_yard: Client, args: argparse.Namespace, _output: Output) -> None:
    """
    Print a token.
    """
    try:
        print(tokens.mint(args.key, args.subject, args.scopes.replace(",", " ").split(), args.ttl))
    except ImportError:
        raise RefusedError("minting tokens takes PyJWT and cryptography: pip install 'modelyard[tokens]'") from None
    except FileNotFoundError:
        raise RefusedError(f"{args.key} is not there: start the suite with make run ACCESS=on") from None
    except ValueError as error:
        raise RefusedError(f"{args.key}: {error}") from None
