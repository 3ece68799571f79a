"""
Exit codes: one per class of errors.
"""

from __future__ import annotations

from typing import Final

import grpc

from modelyard.cli.errors import FileError
from modelyard.login.errors import LoginError

FAILED: Final = 1
#: As in shells: 128 plus the number of SIGINT.
INTERRUPTED: Final = 130

# argparse exits with 2 as well, for an invalid command line.
_STATUSES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 2,
    grpc.StatusCode.OUT_OF_RANGE: 2,
    grpc.StatusCode.NOT_FOUND: 3,
    grpc.StatusCode.UNAUTHENTICATED: 4,
    grpc.StatusCode.PERMISSION_DENIED: 4,
    grpc.StatusCode.ALREADY_EXISTS: 5,
    grpc.StatusCode.ABORTED: 5,
    grpc.StatusCode.FAILED_PRECONDITION: 5,
    grpc.StatusCode.UNAVAILABLE: 6,
    grpc.StatusCode.DEADLINE_EXCEEDED: 6,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 7,
}

TABLE: Final = """\
exit codes: 0 done
            1 failed: a local file, bytes that are wrong, a refusal by the command itself, an error of a server
            2 the command line, or a value in it, is wrong
            3 not found
            4 no token or login, or one that may not do this
            5 a conflict: it exists already, has changed meanwhile, or is not in a state for it
            6 nothing answered, or not in time: the same may work later
            7 over a limit: a quota, a rate, a size
            130 interrupted"""


def code_of(error: Exception) -> int:
    """
    The exit code of a command that ended with *error*.
    """
    if isinstance(error, FileError):
        return code_of(error.cause)
    if isinstance(error, LoginError):
        codes = grpc.StatusCode
        return _STATUSES[codes.UNAVAILABLE if error.temporary else codes.UNAUTHENTICATED]
    if isinstance(error, grpc.RpcError):
        # Errors that a client raises are also calls, which grpc's types do not express.
        return _STATUSES.get(error.code(), FAILED)
    return FAILED
