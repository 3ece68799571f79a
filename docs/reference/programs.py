"""
The programs beside `modelyard`: the gateway, its renderer, migrations. Their options come from the parsers they build.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

from docs.reference import cli
from docs.reference import markdown as md

_ABOUT = """\
The programs that an operator runs, with their options, generated from their parsers. The gateway has no settings in
the environment: its configuration is rendered once from these options and read by Envoy."""

#: The modules that are run with `python -m`.
PROGRAMS = (
    "gateway.render",
    "gateway",
    "services.registry",
    "services.registry.migrate",
    "services.registry.audit",
    "embedded",
)


class _ParserBuiltError(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@contextmanager
def _no_parsing() -> Iterator[None]:
    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _ParserBuiltError(self)

    with mock.patch.multiple(argparse.ArgumentParser, parse_args=stop, parse_known_args=stop):
        yield


def parser(module: str) -> argparse.ArgumentParser:
    """
    The parser that a program builds, caught when it is about to read the command line.
    """
    try:
        with _no_parsing(), mock.patch.object(sys, "argv", [module]), warnings.catch_warnings():
            # The program may have been imported before, as another module.
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(module, run_name="__main__")
    except _ParserBuiltError as caught:
        return caught.parser
    raise RuntimeError(f"{module} reads no command line")


def page() -> str:
    """
    The page.
    """
    sections = []
    for module in PROGRAMS:
        found = parser(module)
        found.description = _first_paragraph(found.description or "")
        sections += [f"## python -m {module}", *cli.describe(found, f"python -m {module}")]
        for words, below in cli._leaves("", found):
            if words:
                sections += [f"### {module} {words}", *cli.describe(below, f"python -m {module} {words}")]
    return md.page("Programs", _ABOUT, *sections)


def _first_paragraph(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split())
