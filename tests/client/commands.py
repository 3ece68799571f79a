"""
Runs commands of `modelyard` in this process, with what they print.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

from modelyard.cli import main as cli
from modelyard.client import Client, connect


@dataclass(frozen=True)
class Done:
    """
    The exit code of a command and what it printed.
    """

    code: int
    out: str
    err: str

    def table(self) -> list[list[str]]:
        """
        The cells of the printed table, the header first.
        """
        return [line.split() for line in self.out.splitlines()]

    def messages(self) -> list[dict[str, Any]]:
        """
        The printed lines of JSON.
        """
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


def runner(target: str) -> Run:
    """
    A function that runs one command at *target*; its arguments are those of the command. The commands read their own
    writes, as the calls of one client do: a new process may still read what the cache had before a write.
    """
    revisions: dict[str, int] = {}

    def session(*args: Any, **kwargs: Any) -> Client:
        client = connect(*args, **kwargs)
        client._session._revisions = revisions
        return client

    def run(*arguments: str) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        with mock.patch.object(cli, "connect", session), redirect_stdout(out), redirect_stderr(err):
            try:
                code = cli.main(["--target", target, *arguments])
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        return Done(code, _text(out), _text(err))

    return run


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def new_id(prefix: str) -> str:
    """
    An id that no other test uses.
    """
    return f"{prefix}-{random.SystemRandom().randbytes(4).hex()}"
