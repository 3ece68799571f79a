"""
`modelyard token`
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from modelyard import tokens
from modelyard.cli.errors import RefusedError
from modelyard.cli.output import Output
from modelyard.cli.parsing import Group, command
from modelyard.client import Client


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
