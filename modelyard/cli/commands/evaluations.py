"""
`modelyard evaluations …` and `modelyard leaderboard …`
"""

from __future__ import annotations

import argparse
import uuid

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import DEFAULT_NAMESPACE, FORMS, VersionRef, namespace_name
from modelyard.cli.output import Column, Output, count, number, pairs, time_of
from modelyard.cli.parsing import Group, all_pages, command, limit_argument, pair, subcommands, timestamp
from modelyard.cli.refs import resolve, version_or_model, version_ref
from modelyard.client import Client
from modelyard.registry.v1 import evaluations_pb2 as pb

# So many ids are shown when a leaderboard is empty.
_MOST_SHOWN = 20
_DIRECTIONS = {
    "higher": pb.Metric.DIRECTION_HIGHER,
    "lower": pb.Metric.DIRECTION_LOWER,
    "unspecified": pb.Metric.DIRECTION_UNSPECIFIED,
}


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "evaluations", "manage evaluation results")
    parser = command(commands, "list", list_, "list the results of a model or of one version")
    parser.add_argument(
        "parent",
        type=version_or_model,
        metavar="MODEL[@VERSION]",
        help="model with all of its versions, or one version",
    )
    parser.add_argument("--dataset", default="", help="only on this data set")
    parser.add_argument("--metric", default="", help="only of this metric")
    parser.add_argument("--names", action="store_true", help="include the names, as delete expects them")
    limit_argument(parser)
    _record(command(commands, "record", record, "record results of a version on a data set"))
    _delete(command(commands, "delete", delete, "delete results of a version that were recorded by mistake"))
    parser = command(commands, "datasets", datasets, "list the data sets with results")
    parser.add_argument("--metric", default="", help="only those with results of this metric")
    _listed(parser)
    parser = command(commands, "metrics", metrics, "list the metrics with results")
    parser.add_argument("--dataset", default="", help="only those with results on this data set")
    _listed(parser)
    parser = command(commands, "direction", direction, "set whether higher or lower values of a metric are better")
    parser.add_argument("metric", metavar="METRIC")
    parser.add_argument("direction", choices=_DIRECTIONS)
    parser.add_argument("--namespace", metavar="NAMESPACE", default=DEFAULT_NAMESPACE)
    parser = command(group, "leaderboard", leaderboard, "rank models by their best result of a metric on a data set")
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("metric", metavar="METRIC")
    parser.add_argument("--filter", default="", help="such as 'parameter_count < 100000000'")
    parser.add_argument(
        "--ascending", action="store_true", help="rank the lowest value first, regardless of the metric's direction"
    )
    parser.add_argument("--namespace", metavar="NAMESPACE", default=DEFAULT_NAMESPACE)
    limit_argument(parser, 20)


def _record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", type=version_ref, metavar="VERSION", help=FORMS)
    parser.add_argument("dataset", metavar="DATASET", help="such as imagenet or GLUE/SST-2")
    parser.add_argument("results", type=_result, nargs="+", metavar="METRIC=VALUE", help="such as acc@1=0.91")
    parser.add_argument(
        "--parameter",
        type=pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of the measurement; repeatable",
    )
    parser.add_argument("--time", type=timestamp, metavar="TIME", help="time of the measurement; default: now")
    parser.add_argument("--replace", action="store_true", help="replace results with the same parameters")


def _delete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=_target, metavar="VERSION|NAME", nargs="+", help="MODEL@3, or names of results")
    parser.add_argument("--dataset", default="", help="all results of the version on this data set")
    parser.add_argument("--metric", default="", help="all results of the version of this metric")
    parser.add_argument("--all", action="store_true", help="all results of the version")


def _target(text: str) -> str | VersionRef:
    return text if "/evaluations/" in text else version_ref(text)


def _listed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", metavar="NAMESPACE", default=DEFAULT_NAMESPACE)
    limit_argument(parser)


def _result(text: str) -> tuple[str, float]:
    # A metric may have a = in its name, a number has none.
    metric, separator, value = text.rpartition("=")
    try:
        if separator and metric:
            return metric, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not METRIC=VALUE, such as acc@1=0.91")


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
    if args.names:
        columns.append(Column("NAME", lambda each: each.name))
    output.many(all_pages(yard.evaluations.ListEvaluations, request, "evaluations", args.limit), columns, "no results")


def record(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Record results of a version.
    """
    version = resolve(yard, args.version)
    results = [
        pb.Evaluation(
            version=version, dataset=args.dataset, metric=metric, value=value, parameters=dict(args.parameter)
        )
        for metric, value in args.results
    ]
    if args.time is not None:
        for each in results:
            each.evaluate_time.FromDatetime(args.time)
    request = pb.RecordEvaluationsRequest(
        parent=version.partition("/models/")[0],
        evaluations=results,
        replace=args.replace,
        request_id=uuid.uuid4().hex,
    )
    answer = yard.evaluations.RecordEvaluations(request)
    facts = [("recorded", str(answer.recorded_count)), ("replaced", count(answer.replaced_count))]
    output.one(answer, [("version", version), *facts, ("revision", str(answer.revision))])


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Delete results: those with the names, or those of a version that the options select.
    """
    request = pb.DeleteEvaluationsRequest(request_id=uuid.uuid4().hex)
    names = [each for each in args.results if isinstance(each, str)]
    versions = [each for each in args.results if not isinstance(each, str)]
    if versions:
        if len(args.results) > 1:
            raise RefusedError("give one version, or names of results (`evaluations list --names` shows them)")
        if not (args.dataset or args.metric or args.all):
            raise RefusedError("say which results of the version: --dataset, --metric or --all")
        version = resolve(yard, versions[0])
        request.selection.version = version
        request.selection.dataset, request.selection.metric = args.dataset, args.metric
    else:
        version = names[0]
        request.names.extend(names)
    request.parent = version.partition("/models/")[0]
    answer = yard.evaluations.DeleteEvaluations(request)
    output.one(answer, [("deleted", str(answer.deleted_count)), ("revision", str(answer.revision))])


def datasets(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List data sets.
    """
    request = pb.ListDatasetsRequest(parent=namespace_name(args.namespace), metric=args.metric)
    columns: list[Column[pb.Dataset]] = [
        Column("DATASET", lambda each: each.dataset),
        Column("METRICS", lambda each: str(each.metric_count), right=True),
        Column("RESULTS", lambda each: count(each.result_count), right=True),
    ]
    found = all_pages(yard.evaluations.ListDatasets, request, "datasets", args.limit)
    output.many(found, columns, "no data sets")


def metrics(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List metrics.
    """
    request = pb.ListMetricsRequest(parent=namespace_name(args.namespace), dataset=args.dataset)
    columns: list[Column[pb.Metric]] = [
        Column("METRIC", lambda each: each.metric),
        Column("BETTER", _better),
        Column("DATASETS", lambda each: str(each.dataset_count), right=True),
        Column("RESULTS", lambda each: count(each.result_count), right=True),
    ]
    found = all_pages(yard.evaluations.ListMetrics, request, "metrics", args.limit)
    output.many(found, columns, "no metrics")


def direction(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Say which way a metric is better.
    """
    said = pb.Metric(metric=args.metric, direction=_DIRECTIONS[args.direction])
    request = pb.UpdateMetricRequest(parent=namespace_name(args.namespace), metric=said, request_id=uuid.uuid4().hex)
    metric = yard.evaluations.UpdateMetric(request)
    facts = [("metric", metric.metric), ("better", _better(metric)), ("datasets", str(metric.dataset_count))]
    output.one(metric, [*facts, ("results", str(metric.result_count)), ("revision", str(metric.revision))])


def _better(metric: pb.Metric) -> str:
    name = pb.Metric.Direction.Name(metric.direction).removeprefix("DIRECTION_").lower()
    return "higher (nobody said)" if name == "unspecified" else name


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
    entries = list(all_pages(yard.evaluations.QueryLeaderboard, request, "entries", args.limit, 200))
    places = iter(range(1, 2**62))
    columns: list[Column[pb.QueryLeaderboardResponse.Entry]] = [
        Column("PLACE", lambda _: str(next(places)), right=True),
        Column("MODEL", lambda each: each.model.rpartition("/")[2]),
        Column(args.metric.upper(), lambda each: number(each.evaluation.value), right=True),
        Column("PARAMETERS", lambda each: count(each.parameter_count), right=True),
        Column("VERSION", lambda each: each.evaluation.version.rpartition("/")[2]),
    ]
    output.many(entries, columns, "no results")
    if not entries:
        output.note(_suggestion(yard, request))


def _suggestion(yard: Client, board: pb.QueryLeaderboardRequest) -> str:
    """
    Why a leaderboard may be empty: what there are results of.
    """
    ask = pb.ListMetricsRequest(parent=board.parent, dataset=board.dataset, page_size=_MOST_SHOWN)
    found = yard.evaluations.ListMetrics(ask)
    names = [each.metric for each in found.metrics]
    if board.metric in names:
        return "there are results: they are of models that are deleted, failed or left out by the filter"
    if names:
        return f"on {board.dataset} there are results of: {_shown(names, found.next_page_token)}"
    all_ = yard.evaluations.ListDatasets(pb.ListDatasetsRequest(parent=board.parent, page_size=_MOST_SHOWN))
    if not all_.datasets:
        return f"{board.parent} has no results at all"
    known = _shown([each.dataset for each in all_.datasets], all_.next_page_token)
    return f"there are no results on {board.dataset}, but on: {known}"


def _shown(names: list[str], more: str) -> str:
    return ", ".join(names) + (", …" if more else "")
