"""
`modelyard cards …`
"""

from __future__ import annotations

import argparse
import sys
import uuid
from pathlib import Path

from modelyard.cli.names import model_name
from modelyard.cli.output import Column, Output, count, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, subcommands
from modelyard.cli.refs import resolve, version_ref
from modelyard.client import Client
from modelyard.registry.v1 import cards_pb2 as pb

_PROSE = (
    "intended_use",
    "training_data",
    "evaluation_data",
    "metrics",
    "limitations",
    "ethical_considerations",
    "license",
)


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "cards", "manage model cards in the Hugging Face format")
    parser = command(commands, "get", get, "show the structured fields of a card")
    _card(parser)
    parser = command(commands, "export", export, "print a card as a README.md: front matter and Markdown")
    _card(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="output file; default: standard output")
    parser = command(commands, "import", import_, "write a model's card from a README.md")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("file", metavar="FILE", help="README.md to import; - for standard input")
    parser.add_argument("--card-only", action="store_true", help="do not update the model's fields and results")
    parser.add_argument(
        "--version",
        type=version_ref,
        metavar="VERSION",
        help="version of the card's results, such as MODEL@3; default: the newest",
    )
    for name, run, about in (
        ("history", history, "list the history of a card: number, author and time"),
        ("numbers", _numbers, "deprecated alias of `cards history`"),
    ):
        parser = command(commands, name, run, about)
        parser.add_argument("model", metavar="MODEL")
        limit_argument(parser)


def _card(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--number", type=int, default=0, metavar="N", help="number of the card; default: the newest")


def _name(model: str) -> str:
    return f"{model_name(model)}/card"


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a card.
    """
    show(output, yard.cards.GetCard(pb.GetCardRequest(name=_name(args.model), number=args.number)))


def export(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Print or write a card as a README.md.
    """
    answer = yard.cards.ExportCard(pb.ExportCardRequest(name=_name(args.model), number=args.number))
    if args.output is None:
        output.document(answer.content)
        return
    # Bytes: line ends are the card's own.
    args.output.write_bytes(answer.content.encode())
    output.note(f"written to {args.output}")


def import_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Write a model's card from a README.md.
    """
    data = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    try:
        content = data.decode()
    except UnicodeDecodeError as error:
        raise OSError(f"{args.file} is not UTF-8: byte {error.start} cannot be read") from None
    request = pb.ImportCardRequest(
        name=_name(args.model),
        content=content,
        card_only=args.card_only,
        version=resolve(yard, args.version) if args.version else "",
        request_id=uuid.uuid4().hex,
    )
    card = yard.cards.ImportCard(request)
    show(output, card)
    for each in card.imported.warnings:
        output.note(f"warning: {each}")


def history(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List every number of a card with its author and time, the newest first.
    """
    columns: list[Column[pb.Card]] = [
        Column("NUMBER", lambda each: str(each.number), right=True),
        Column("WRITTEN", lambda each: time_of(each.update_time)),
        Column("BY", lambda each: each.actor),
        Column("REVISION", lambda each: str(each.revision), right=True),
    ]
    request = pb.ListCardNumbersRequest(parent=_name(args.model))
    output.many(all_pages(yard.cards.ListCardNumbers, request, "cards", args.limit), columns, "no card")


def _numbers(yard: Client, args: argparse.Namespace, output: Output) -> None:
    output.warn("`modelyard cards numbers` is deprecated: use `modelyard cards history`")
    history(yard, args, output)


def show(output: Output, card: pb.Card) -> None:
    """
    Print a card without its Markdown.
    """
    facts = [
        ("name", card.name),
        ("number", str(card.number)),
        *((field.replace("_", " "), getattr(card, field)) for field in _PROSE),
        ("other keys", ", ".join(card.extra.fields)),
        ("markdown", f"{len(card.markdown):,} characters" if card.markdown else ""),
        ("written", time_of(card.update_time)),
        ("by", card.actor),
        ("revision", str(card.revision)),
        ("taken over", ", ".join(card.imported.fields)),
        ("results of", card.imported.version),
        ("recorded", count(card.imported.recorded_count)),
        ("replaced", count(card.imported.replaced_count)),
    ]
    output.one(card, facts)
