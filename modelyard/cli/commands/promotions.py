"""
`modelyard promotions …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.names import model_name
from modelyard.cli.output import Column, Output, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, subcommands
from modelyard.cli.refs import resolve_in_model
from modelyard.client import Client
from modelyard.registry.v1 import promotions_pb2 as pb

_STATES = ("pending", "done", "rejected", "cancelled", "superseded")


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "promotions", "request and approve moves of protected aliases")
    parser = command(commands, "request", request, "request that an alias be pointed at a version")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("alias", metavar="ALIAS")
    parser.add_argument("version", metavar="VERSION", help="version number, alias, latest, or none to remove the alias")
    parser.add_argument("--comment", default="", help="why")
    parser.add_argument("--check", action="store_true", help="only say what would be missing")
    parser = command(commands, "approve", approve, "approve a promotion; the last approval moves the alias")
    _promotion_arguments(parser)
    parser.add_argument("--comment", default="", help="comment of the review")
    parser.add_argument("--etag", default="", help="precondition: etag of the promotion")
    parser = command(commands, "reject", reject, "reject a promotion")
    _promotion_arguments(parser)
    parser.add_argument("--comment", default="", help="comment of the review")
    parser = command(commands, "cancel", cancel, "withdraw a promotion")
    _promotion_arguments(parser)
    parser = command(commands, "show", show, "show a promotion")
    _promotion_arguments(parser)
    parser = command(commands, "list", list_, "list promotions, the newest first")
    parser.add_argument("model", metavar="MODEL", help="a model, or NAMESPACE/- for all models of a namespace")
    parser.add_argument("--state", choices=_STATES, metavar="STATE", help=", ".join(_STATES))
    parser.add_argument("--alias", default="", help="only those of this alias")
    limit_argument(parser)


def request(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Request a promotion.
    """
    model = model_name(args.model)
    version = "" if args.version == "none" else resolve_in_model(yard, model, args.version)
    promotion = pb.Promotion(alias_id=args.alias, version=version, comment=args.comment)
    _show(
        output,
        yard.promotions.CreatePromotion(
            pb.CreatePromotionRequest(
                parent=model,
                promotion=promotion,
                validate_only=args.check,
                request_id="" if args.check else uuid.uuid4().hex,
            )
        ),
    )


def approve(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Approve a promotion.
    """
    wanted = pb.ApprovePromotionRequest(
        name=_name(args), comment=args.comment, etag=args.etag, request_id=uuid.uuid4().hex
    )
    _show(output, yard.promotions.ApprovePromotion(wanted))


def reject(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Reject a promotion.
    """
    wanted = pb.RejectPromotionRequest(name=_name(args), comment=args.comment, request_id=uuid.uuid4().hex)
    _show(output, yard.promotions.RejectPromotion(wanted))


def cancel(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Withdraw a promotion.
    """
    wanted = pb.CancelPromotionRequest(name=_name(args), request_id=uuid.uuid4().hex)
    _show(output, yard.promotions.CancelPromotion(wanted))


def show(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a promotion.
    """
    _show(output, yard.promotions.GetPromotion(pb.GetPromotionRequest(name=_name(args))))


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List promotions.
    """
    state = pb.Promotion.State.Value(f"STATE_{args.state.upper()}") if args.state else pb.Promotion.STATE_UNSPECIFIED
    wanted = pb.ListPromotionsRequest(parent=model_name(args.model), state=state, alias_id=args.alias)
    columns: list[Column[pb.Promotion]] = [
        Column("MODEL", lambda each: each.name.split("/")[3]),
        Column("PROMOTION", lambda each: each.name.rpartition("/")[2], right=True),
        Column("ALIAS", lambda each: each.alias_id),
        Column("VERSION", lambda each: _number(each.version), right=True),
        Column("STATE", _state),
        Column("BY", lambda each: each.requester),
        Column("REQUESTED", lambda each: time_of(each.create_time)),
        Column("COMMENT", lambda each: each.comment),
    ]
    found = all_pages(yard.promotions.ListPromotions, wanted, "promotions", args.limit)
    output.many(found, columns, "no promotions")


def _promotion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("number", metavar="PROMOTION", help="number of the promotion")


def _show(output: Output, promotion: pb.Promotion) -> None:
    facts = [
        ("name", promotion.name),
        ("alias", promotion.alias_id),
        ("version", _number(promotion.version)),
        ("from", _number(promotion.from_version)),
        ("state", _state(promotion)),
        ("by", promotion.requester),
    ]
    if promotion.comment:
        facts.append(("comment", promotion.comment))
    facts += [(_verdict(each), f"{each.subject} {each.comment}".strip()) for each in promotion.reviews]
    facts += [("missing", f"{each.rule.rpartition('/')[2]}: {each.description}") for each in promotion.missing]
    output.one(promotion, facts)


def _verdict(review: pb.Promotion.Review) -> str:
    return pb.Promotion.Verdict.Name(review.verdict).removeprefix("VERDICT_").lower()


def _state(promotion: pb.Promotion) -> str:
    return pb.Promotion.State.Name(promotion.state).removeprefix("STATE_").lower()


def _number(version: str) -> str:
    return version.rpartition("/")[2] or "none"


def _name(args: argparse.Namespace) -> str:
    return f"{model_name(args.model)}/promotions/{args.number}"
