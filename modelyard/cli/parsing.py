"""
Arguments and helpers that several commands share.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from modelyard.cli.names import DEFAULT_NAMESPACE, namespace_name
from modelyard.cli.output import Output
from modelyard.client import Client

T = TypeVar("T")

if TYPE_CHECKING:
    # argparse gives this type no other name.
    Group = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001
else:
    Group = argparse.Action

#: The function of a command.
Run = Callable[[Client, argparse.Namespace, Output], None]


def common() -> argparse.ArgumentParser:
    """
    The options of every command, accepted before and after its name.
    """
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("connection and output")
    group.add_argument("--target", metavar="ADDRESS", help="host:port or https:// URL ($MODELYARD_TARGET)")
    group.add_argument(
        "--token-file", metavar="FILE", help="file with the bearer token ($MODELYARD_TOKEN_FILE, or $MODELYARD_TOKEN)"
    )
    group.add_argument("--ca-file", metavar="FILE", help="CA bundle for TLS ($MODELYARD_CA_FILE)")
    group.add_argument("--cert-file", metavar="FILE", help="client certificate for TLS ($MODELYARD_CERT_FILE)")
    group.add_argument("--key-file", metavar="FILE", help="private key of the client certificate ($MODELYARD_KEY_FILE)")
    group.add_argument("--deadline", type=float, metavar="SECONDS", help="timeout of a call in seconds (30)")
    group.add_argument("--json", action="store_true", help="print JSON, a line for each message")
    group.add_argument("-q", "--quiet", action="store_true", help="print the result only, without notes and progress")
    return parser


def command(group: Group, name: str, run: Run, help: str) -> argparse.ArgumentParser:  # noqa: A002 - as in argparse
    """
    Add the command *name*.

    Args:
        run: function that executes it.
        help: help text, a sentence in the imperative without a full stop.
    """
    parser = group.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", parents=[common()])
    parser.set_defaults(run=run, parser=parser)
    return parser


def usage_error(args: argparse.Namespace, text: str) -> NoReturn:
    """
    Print the usage of the command and an error, and exit with code 2.
    """
    parser: argparse.ArgumentParser = args.parser
    parser.error(text)


def subcommands(group: Group, name: str, help: str) -> Group:  # noqa: A002 - as in argparse
    """
    Add the command group *name*.
    """
    parser = group.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def limit_argument(parser: argparse.ArgumentParser, default: int = 50) -> None:
    """
    Add --limit to a list command.
    """
    parser.add_argument(
        "--limit",
        type=_at_least_0,
        default=default,
        metavar="N",
        help=f"maximum number of results; 0 for all ({default})",
    )


def namespace_argument(parser: argparse.ArgumentParser) -> None:
    """
    Add the namespace to a list command: as --namespace, or as a positional argument.
    """
    parser.add_argument("place", metavar="NAMESPACE", nargs="?", default="", help="the same as --namespace")
    parser.add_argument("--namespace", metavar="NAMESPACE", default="", help=f"namespace; default: {DEFAULT_NAMESPACE}")


def namespace_of(args: argparse.Namespace) -> str:
    """
    The full name of the namespace that `namespace_argument` parsed.
    """
    if args.place and args.namespace and namespace_name(args.place) != namespace_name(args.namespace):
        usage_error(args, "two namespaces are given: one is enough")
    return namespace_name(args.place or args.namespace or DEFAULT_NAMESPACE)


def pair(text: str) -> tuple[str, str]:
    """
    Parse ``key=value``.

    Raises:
        argparse.ArgumentTypeError: *text* has another form.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def timestamp(text: str) -> datetime:
    """
    Parse a time in ISO 8601; UTC without a zone.

    Raises:
        argparse.ArgumentTypeError: *text* is not a time.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-01-31T12:00:00") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def duration(text: str) -> Duration:
    """
    Parse ``90s``, ``30m``, ``12h``, ``7d`` or a number of seconds.

    Raises:
        argparse.ArgumentTypeError: *text* is not a duration.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 12h or 7d")
    return Duration(seconds=int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


def confirmation_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """
    Require --yes of an irreversible command.
    """
    parser.add_argument("--yes", action="store_true", required=True, help=f"yes, {what}")


def _at_least_0(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def all_pages(call: Callable[[Any], Any], request: Message, field: str, limit: int, page: int = 1000) -> Iterator[Any]:
    """
    The messages of a list RPC, page by page.

    Args:
        call: method of the stub.
        request: request without page size and token.
        field: field of the response with the list.
        limit: maximum number of messages; 0 for all.
        page: maximum page size of the RPC.
    """
    paged: Any = request
    given = 0
    while True:
        paged.page_size = min(limit - given, page) if limit else page
        response = call(paged)
        for message in getattr(response, field):
            yield message
            given += 1
        paged.page_token = response.next_page_token
        if not paged.page_token or (limit and given >= limit):
            return
