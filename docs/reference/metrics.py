"""
The metrics of the services, from the collectors that expose them.

Collectors are asked for their families with stand-ins for what they measure: names, types, labels and help texts do not
depend on the numbers.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from docs.reference import markdown as md
from docs.reference import sources
from gateway.access_log import AccessLog
from services.chassis.observability.metrics import Metrics

_ABOUT = """\
The metrics that each worker serves at `http://MODELYARD_METRICS/metrics`, generated from the collectors that expose
them. Times are in seconds, sizes in bytes. A counter's series ends in `_total`; a histogram has `_bucket`, `_sum`
and `_count`. What they mean and when the clock of a call starts: [observability](../observability.md). The gateway
serves Envoy's own metrics; those that the gateway's configuration adds are at the end."""


@dataclass(frozen=True, slots=True)
class Family:
    """
    One metric.

    Args:
        package: that exposes it.
        name: as a query has it: counters end in _total.
        kind: counter, gauge, histogram or info.
        labels: their names.
        help: what it measures.
    """

    package: str
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def families() -> list[Family]:
    """
    Every metric of every service, by package and name; `process_*` and `python_*` of the client library included.
    """
    found = {each.name: each for each in (*_of_process(), *_of_collectors(), *_of_tables())}
    order = list(sources.TITLES)
    return sorted(found.values(), key=lambda each: (order.index(each.package), each.name))


def _of_process() -> Iterator[Family]:
    metrics = Metrics("reference", "grpcio")
    metrics.show_certificate(mock.MagicMock())
    for collector in list(metrics.registry._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            yield _family("services.chassis", next(iter(collector.describe())), tuple(collector._labelnames))
        else:
            yield from (_family("services.chassis", each) for each in collector.collect())


def _of_collectors() -> Iterator[Family]:
    for cls in sources.classes("services", "Collector)"):
        if Collector not in cls.__mro__:
            continue
        package = ".".join(cls.__module__.split(".")[:2])
        arguments = inspect.signature(cls).parameters
        # What it measures has numbers of any name, and iterates over nothing.
        collector = cls(*(mock.MagicMock() for _ in arguments))
        yield from (_family(package, each) for each in collector.collect())


def _of_tables() -> Iterator[Family]:
    """
    Metrics that a collector takes as a mapping of names to help texts and functions (`metrics.gauges.update({…})`).
    """
    for path in sources.files("services"):
        for name, call in sources.calls(path):
            owner = getattr(getattr(call.func, "value", None), "attr", "")
            if name != "update" or owner not in ("gauges", "counters") or not isinstance(call.args[0], ast.Dict):
                continue
            for key, value in zip(call.args[0].keys, call.args[0].values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    counter = owner == "counters"
                    text = ast.literal_eval(value.elts[0])
                    metric = Metric(str(key.value), text, "counter" if counter else "gauge")
                    yield _family(".".join(path.parts[:2]), metric)


def _family(package: str, metric: Metric, labels: tuple[str, ...] = ()) -> Family:
    # Families of the client library keep the names of labels to themselves until there is a sample.
    found = labels or tuple(getattr(metric, "_labelnames", ()))
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return Family(package, name, metric.type, found, metric.documentation)


def gateway_families() -> list[Family]:
    """
    The counters that the gateway's access loggers add to Envoy's own, from the loggers' configuration.
    """
    found = []
    for logger in AccessLog().values()["ACCESS_LOG"]:  # type: ignore[attr-defined]
        config = logger["typed_config"]
        for counter in config.get("counters", ()):
            stat = counter["stat"]
            name = f"envoy_{config['stats_scope']['prefix']}_{stat['name']}"
            found.append(Family("gateway", name, "counter", tuple(tag["name"] for tag in stat.get("tags", ())), ""))
    return sorted(found, key=lambda each: each.name)


def page() -> str:
    """
    The page.
    """
    found, sections = families(), []
    for package, title in sources.TITLES.items():
        rows = [_row(each) for each in found if each.package == package]
        if rows:
            sections += [f"## {title}", md.table(("metric", "type", "labels", "help"), rows)]
    sections += ["## Gateway", md.table(("metric", "type", "labels"), [_row(each)[:3] for each in gateway_families()])]
    return md.page("Metrics", _ABOUT, *sections)


def _row(family: Family) -> tuple[str, ...]:
    labels = ", ".join(md.code(label) for label in family.labels)
    return md.code(family.name), family.kind, labels, md.sentence(md.prose(family.help))
