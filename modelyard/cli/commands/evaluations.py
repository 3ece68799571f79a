"""
`modelyard evaluations …` and `modelyard leaderboard …`
"""

from __future__ import annotations

import argparse

from modelyard.cli.names import DEFAULT_NAMESPACE, namespace_name
from modelyard.cli.output import Column, Output, count, number, pairs, time_of
from modelyard.cli.parsing import Group, all_pages, command, limited, subcommands
from modelyard.cli.refs import newest_or, resolve
from modelyard.client import Client
from modelyard.registry.v1 import evaluations_pb2 as pb


def add(group: Group) -> None:
    """
    Say what there is.
    """
    commands = subcommands(group, "evaluations", "measured results")
    parser = command(commands, "list", list_, "list the results of a model or of one version")
    parser.add_argument(
        "parent", type=newest_or, metavar="MODEL[@VERSION]", help="a model with all of its versions, or one"
    )
    parser.add_argument("--dataset", default="", help="only on this data set")
    parser.add_argument("--metric", default="", help="only of this metric")
    limited(parser)
    parser = command(group, "leaderboard", leaderboard, "rank models by their best result of a metric on a data set")
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("metric", metavar="METRIC")
    parser.add_argument("--filter", default="", help="such as 'parameter_count < 100000000'")
    parser.add_argument("--ascending", action="store_true", help="the lowest first, for losses and times")
    parser.add_argument("--namespace", metavar="NAMESPACE", default=DEFAULT_NAMESPACE)
    limited(parser, 20)


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List results.
    """
    parent = args.parent.model if args.parent.bare else resolve(yard, args.parent)
    request = pb.ListEvaluationsRequest(parent=parent, dataset=args.dataset, metric=args.metric)
    columns: list[Column[pb.Evaluation]] = [
        Column("VERSION", lambda each: each.version.rpartition("/")[2], right=True),
        Column("DATASET", lambda each: each.dataset),
        Column("METRIC", lambda each: each.metric),
        Column("VALUE", lambda each: number(each.value), right=True),
        Column("MEASURED WITH", lambda each: pairs(each.parameters.items())),
        Column("RECORDED", lambda each: time_of(each.create_time)),
    ]
    output.many(all_pages(yard.evaluations.ListEvaluations, request, "evaluations", args.limit), columns, "no results")


def leaderboard(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Rank models.
    """
    request = pb.QueryLeaderboardRequest(
        parent=namespace_name(args.namespace),
        dataset=args.dataset,
        metric=args.metric,
        filter=args.filter,
        ascending=args.ascending,
    )
    entries = all_pages(yard.evaluations.QueryLeaderboard, request, "entries", args.limit, 200)
    places = iter(range(1, 2**62))
    columns: list[Column[pb.QueryLeaderboardResponse.Entry]] = [
        Column("PLACE", lambda _: str(next(places)), right=True),
        Column("MODEL", lambda each: each.model.rpartition("/")[2]),
        Column(args.metric.upper(), lambda each: number(each.evaluation.value), right=True),
        Column("PARAMETERS", lambda each: count(each.parameter_count), right=True),
        Column("VERSION", lambda each: each.evaluation.version.rpartition("/")[2]),
    ]
    output.many(entries, columns, "no results")
