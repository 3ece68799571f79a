"""
The commands of `modelyard`, from the parsers that read their arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from docs.reference import markdown as md
from modelyard.cli import main
from modelyard.cli.exit_codes import TABLE
from modelyard.cli.parsing import common

_ABOUT = """\
Every command of `modelyard` with its arguments and options, generated from its parser; `modelyard COMMAND --help`
prints the same. How versions are named, what is printed where, and the environment variables: [command
line](../cli.md)."""


def commands() -> dict[str, argparse.ArgumentParser]:
    """
    The parser of each command that does something, by its words: "aliases set".
    """
    return dict(_leaves("", main._parser()))


def _leaves(prefix: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not groups:
        yield prefix, parser
    for group in groups:
        for name, below in group.choices.items():
            yield from _leaves(f"{prefix} {name}".strip(), below)


def page() -> str:
    """
    The page.
    """
    shared = [action for action in common()._actions if action.option_strings]
    sections = ["## Options of every command", arguments(shared), "## Exit codes", f"```text\n{TABLE}\n```"]
    names = {option for action in shared for option in action.option_strings}
    room = ""
    for words, parser in commands().items():
        if words.split()[0] != room:
            room = words.split()[0]
            sections.append(f"## {room}")
        if words != room:
            sections.append(f"### {words}")
        sections += describe(parser, f"modelyard {words}", names)
    return md.page("Command line reference", _ABOUT, *sections)


def describe(parser: argparse.ArgumentParser, program: str, without: set[str] | None = None) -> list[str]:
    """
    What a parser takes, as Markdown.

    Args:
        parser: of the command.
        program: its words.
        without: option strings that are described elsewhere.
    """
    actions = [each for each in parser._actions if not (without or set()) & set(each.option_strings)]
    actions = [each for each in actions if not isinstance(each, argparse._HelpAction | argparse._SubParsersAction)]
    formatter = argparse.HelpFormatter(prog=program, width=100)
    formatter.add_usage(None, actions, parser._mutually_exclusive_groups if not without else [], prefix="")
    parts = [md.prose(parser.description or ""), f"```text\n{formatter.format_help().strip()}\n```"]
    if actions:
        parts.append(arguments(actions))
    notes = [group for group in parser._action_groups if group.description and not group._group_actions]
    parts += [f"**{md.prose((each.title or '').capitalize())}.** {md.prose(each.description or '')}" for each in notes]
    return parts


def arguments(actions: list[argparse.Action]) -> str:
    """
    A table of arguments and options.
    """
    return md.table(("argument", "description"), [(_name(each), _help(each)) for each in actions])


def _name(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return md.code(shown)
    value = "" if action.nargs == 0 else f" {shown}"
    return ", ".join(md.code(option) for option in action.option_strings) + (f" {md.code(shown)}" if value else "")


def _help(action: argparse.Action) -> str:
    parts = []
    if action.help and action.help is not argparse.SUPPRESS:
        formatter = argparse.HelpFormatter(prog="")
        parts.append(md.sentence(md.prose(formatter._expand_help(action))))
    if action.choices:
        parts.append("One of " + ", ".join(md.code(str(each)) for each in action.choices) + ".")
    if action.required and action.option_strings:
        parts.append("Required.")
    return " ".join(parts)
