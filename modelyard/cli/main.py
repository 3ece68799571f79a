"""
`modelyard`: the registry on the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

import grpc

from modelyard._channel import DEFAULT_DEADLINE, DEFAULT_TARGET
from modelyard._target import parse_target, proxy_of
from modelyard.cli.commands import (
    aliases,
    assets,
    audit,
    caches,
    cards,
    deployments,
    evaluations,
    imports,
    login,
    models,
    namespaces,
    policies,
    promotions,
    rules,
    tokens,
    top,
    versions,
    watch,
)
from modelyard.cli.errors import FileError, RefusedError
from modelyard.cli.exit_codes import INTERRUPTED, TABLE, code_of
from modelyard.cli.output import Output, escape_unencodable, plain
from modelyard.cli.parsing import common, usage_error
from modelyard.cli.progress import ProgressBar
from modelyard.client import Client, connect
from modelyard.error_details import explain
from modelyard.login.errors import LoginError
from modelyard.transfer import FileChangedError, IntegrityError

_NAMES = """\
names: resnet50, default/resnet50 and namespaces/default/models/resnet50 are the same model;
       resnet50@3 is its version 3, resnet50@production the version that the alias points at.
       resnet50@latest, and resnet50 alone where a version is wanted, is its newest version that is READY.

"""

_COMMAND_MODULES = (
    namespaces,
    policies,
    models,
    versions,
    aliases,
    rules,
    promotions,
    cards,
    evaluations,
    deployments,
    assets,
    imports,
    watch,
    audit,
    caches,
    login,
    tokens,
    top,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    Args:
        arguments: the arguments after the program's name; default: those of the process.

    Returns:
        The exit code (`modelyard.cli.exit_codes`).

    Raises:
        SystemExit: 2 for an invalid command line; 0 after --help and --version.
    """
    escape_unencodable()
    parser = _parser()
    parser.set_defaults(
        target=os.environ.get("MODELYARD_TARGET") or DEFAULT_TARGET,
        token=None,
        token_file=None,
        ca_file=os.environ.get("MODELYARD_CA_FILE") or None,
        cert_file=os.environ.get("MODELYARD_CERT_FILE") or None,
        key_file=os.environ.get("MODELYARD_KEY_FILE") or None,
        deadline=DEFAULT_DEADLINE,
        json=False,
        quiet=False,
    )
    try:
        args, rest = parser.parse_known_args(arguments)
        if rest:
            # argparse would print the usage of the program instead of the command's.
            usage_error(args, f"unrecognized arguments: {' '.join(rest)}")
        ProgressBar.wanted = not args.quiet
        with contextlib.closing(_connect(args)) as yard:
            args.run(yard, args, Output(args.json, quiet=args.quiet))
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe. Python would report it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (grpc.RpcError, OSError, IntegrityError, LoginError, RefusedError) as error:
        return _fail(_message(error, args.target), code_of(error))
    except FileError as error:
        return _fail(_file_message(error, args.target), code_of(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def program() -> NoReturn:
    """
    Run the command in the process's arguments and exit.
    """
    code = main()
    if code == INTERRUPTED:
        # Threads of gRPC may still run: finalizing the interpreter under them crashes sometimes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


# Building it takes longer than a local call: a program that runs several commands builds it once.
@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelyard",
        description="A registry of AI models: models, versions, aliases, results and bytes.",
        epilog=_NAMES + TABLE + "\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common()],
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMAND_MODULES:
        module.add(group)
    return parser


class _Version(argparse.Action):
    # Read on demand: reading a package's metadata takes longer than parsing a command line.
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        try:
            version = metadata.version("modelyard")
        except metadata.PackageNotFoundError:
            version = "(not installed as a package)"
        print(f"modelyard {version}")
        parser.exit()


def _connect(args: argparse.Namespace) -> Client:
    try:
        return connect(
            args.target,
            args.token,
            token_file=args.token_file,
            deadline=args.deadline,
            ca_file=args.ca_file,
            cert_file=args.cert_file,
            key_file=args.key_file,
        )
    except ValueError as error:
        usage_error(args, str(error))


def _file_message(error: FileError, target: str) -> str:
    cause, text = error.cause, _message(error.cause, target)
    # These messages contain the path.
    names_it = isinstance(cause, FileChangedError) or (isinstance(cause, OSError) and cause.filename)
    return text if names_it else f"{error.name}: {text}"


def _message(error: Exception, target: str) -> str:
    if isinstance(error, grpc.RpcError):
        return _line(error, target)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _line(error: grpc.RpcError, target: str) -> str:
    problem = explain(error)
    reason = f" ({problem.reason})" if problem.reason else ""
    wrong = "; ".join(f"{each.field}: {each.description}" for each in problem.violations)
    if len(problem.conditions) > 1:
        unmet = "; ".join(f"{each.subject.rpartition('/')[2]} {each.description}" for each in problem.conditions)
        wrong = f"{problem.message} ({unmet})"
    if problem.code is grpc.StatusCode.UNAVAILABLE and not problem.reason:
        if tls := re.search(r"[Hh]andshake.*|[Ss]sl.*", problem.message):
            return f"{problem.code.name}: TLS with {target} failed: {tls[0]} (--ca-file selects the CA bundle)"
        hint = "--target selects the server, --ca-file enables TLS"
        return f"{problem.code.name}: no server responds at {target}{_through(target)}: is it running? ({hint})"
    if problem.code is grpc.StatusCode.UNAUTHENTICATED:
        wrong = f"{problem.message} (`modelyard login`, --token-file or $MODELYARD_TOKEN provides the token)"
    return " ".join(f"{problem.code.name}{reason}: {wrong or problem.message}".split())


def _through(target: str) -> str:
    proxy = proxy_of(parse_target(target, None)[0])
    if proxy is None:
        return ""
    return f" through the proxy {proxy[1]} (${proxy[0]}; $no_proxy names hosts to connect to directly)"


def _fail(line: str, code: int) -> int:
    print(f"modelyard: {plain(line)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
