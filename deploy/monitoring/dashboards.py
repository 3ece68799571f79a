"""
The dashboards for Grafana 10.1 and newer, built with Grafana's own library. Every panel asks the data source that the
variable `datasource` chooses, so that a dashboard can be imported anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, ThresholdsConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.monitoring.objectives import objectives

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 8, 8
_METHODS = "{{grpc_service}}/{{grpc_method}}"


@dataclass(frozen=True, slots=True)
class Graph:
    """
    A graph over time.

    Args:
        title: its head.
        queries: in PromQL, each with how its series are called.
        unit: as Grafana names it: "reqps", "s", "percentunit", "bytes", "short".
        text: what it shows, where the title cannot say it.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    text: str = ""

    def build(self, number: int) -> timeseries.Panel:
        """
        The panel with this number.
        """
        panel = timeseries.Panel().id(number).title(self.title).description(self.text).unit(self.unit).min(0)
        panel = panel.datasource(_SOURCE).span(_WIDTH).height(_HEIGHT).fill_opacity(8)
        for place, (query, legend) in enumerate(self.queries):
            asked = prometheus.Dataquery().expr(query).legend_format(legend).range()
            panel = panel.with_target(asked.ref_id(chr(ord("A") + place)).datasource(_SOURCE))
        return panel


@dataclass(frozen=True, slots=True)
class Number:
    """
    Large numbers of now, red from a threshold on.
    """

    title: str
    query: str
    legend: str
    red: float
    unit: str = "short"
    text: str = ""

    def build(self, number: int) -> stat.Panel:
        """
        The panel with this number.
        """
        steps = [Threshold(value=None, color="green"), Threshold(value=self.red, color="red")]
        asked = prometheus.Dataquery().expr(self.query).legend_format(self.legend).instant().ref_id("A")
        panel = stat.Panel().id(number).title(self.title).description(self.text).unit(self.unit)
        panel = panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        panel = panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        panel = panel.color_mode(BigValueColorMode.BACKGROUND).datasource(_SOURCE).span(24).height(5)
        return panel.with_target(asked.datasource(_SOURCE))


@dataclass(frozen=True, slots=True)
class Top:
    """
    The methods with the largest values now, as a table.
    """

    title: str
    query: str
    unit: str

    def build(self, number: int) -> table.Panel:
        """
        The panel with this number.
        """
        asked = prometheus.Dataquery().expr(self.query).instant().format(PromQueryFormat.TABLE).ref_id("A")
        columns = {"job": 0, "grpc_service": 1, "grpc_method": 2, "Value": 3}
        shown = {"excludeByName": {"Time": True}, "indexByName": columns}
        panel = table.Panel().id(number).title(self.title).datasource(_SOURCE).span(24).height(9)
        panel = panel.override_by_name("Value", [DynamicConfigValue(id_val="unit", value=self.unit)])
        panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=shown))
        return panel.with_target(asked.datasource(_SOURCE))


Shown = Graph | Number | Top


def all_of_them() -> list[Dashboard]:
    """
    The dashboards.
    """
    return [
        _dashboard("modelyard-overview", "Modelyard: overview", [*_overview()]),
        _dashboard(
            "modelyard-registry",
            "Modelyard: registry",
            [*_stored("registry")],
        ),
        _dashboard("modelyard-cache", "Modelyard: cache", [_valkey(), *_service("cache"), *_cache()]),
        _dashboard("modelyard-cdn", "Modelyard: assets", [*_stored("cdn"), *_objects()]),
        _dashboard("modelyard-gateway", "Modelyard: gateway", [*_gateway()]),
    ]


def text(dashboard: Dashboard) -> str:
    """
    A dashboard as the JSON that Grafana imports.
    """
    return json.dumps(dashboard, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _dashboard(uid: str, title: str, panels: Sequence[Shown]) -> Dashboard:
    builder = (
        DashboardBuilder(title).uid(uid).tags(["modelyard"]).refresh("30s").time("now-1h", "now").timezone("browser")
    )
    builder = builder.tooltip(DashboardCursorSync.CROSSHAIR).editable()
    builder = builder.with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for number, panel in enumerate(panels, start=1):
        builder = builder.with_panel(panel.build(number))
    return builder.build()


def _overview() -> Iterator[Shown]:
    yield Number(
        "Budget burn over the last hour",
        "max by (objective) (modelyard:burn:rate1h)",
        "{{objective}}",
        red=1,
        text="1 uses an objective's budget up in exactly 30 days. Below 1 is as promised.",
    )
    yield Graph(
        "Budget burn over six hours",
        [("max by (objective) (modelyard:burn:rate6h)", "{{objective}}")],
        text="An alert calls from 6 on, when the last half hour burns as fast.",
    )
    yield Graph("Calls", [("sum by (job) (modelyard:calls:rate5m)", "{{job}}")], "reqps")
    yield Graph(
        "Faults of ours",
        [(_errors(), "{{job}}")],
        "percentunit",
        "The share of the calls that ended Unknown, DeadlineExceeded, Internal, Unavailable or DataLoss.",
    )
    yield Top("Slowest methods, by p95", "topk(15, modelyard:calls_seconds:p95 > 0)", "s")
    yield Graph(
        "p95 by method",
        [("topk(10, modelyard:calls_seconds:p95 > 0)", "{{job}} {{grpc_method}}")],
        "s",
    )
    yield Graph("Cache hits by class", [("modelyard:cache_hits:ratio_rate5m >= 0", "{{class}}")], "percentunit")
    yield Graph("Calls running", [("sum by (job) (modelyard:calls_running:sum)", "{{job}}")])
    yield Graph(
        "Database connections in use", [("modelyard:database_pool:used_ratio", "{{job}} {{server}}")], "percentunit"
    )
    yield Graph(
        "Memory", [('process_resident_memory_bytes{job=~"registry|cache|cdn"}', "{{job}} {{instance}}")], "bytes"
    )
    yield Graph("Processors in use", [("modelyard:cpu:rate5m", "{{job}} {{instance}}")])


def _errors() -> str:
    (found,) = [each for each in objectives() if each.name == "errors"]
    return found.bad.replace("WINDOW", "5m")


def _stored(job: str) -> Iterator[Shown]:
    """
    Of a service with a database.
    """
    yield Number(
        "Dependencies that do not answer",
        f'max by (dependency) (1 - modelyard_dependency_up{{job="{job}"}})',
        "{{dependency}}",
        red=1,
        text="0 answers, 1 does not.",
    )
    yield from _service(job)
    yield from _database(job)


def _valkey() -> Number:
    return Number(
        "Valkey left alone",
        "modelyard_cache_breaker_open",
        "{{instance}}",
        red=1,
        text="1 while it does not answer, and nobody waits for it.",
    )


def _service(job: str) -> Iterator[Shown]:
    of = f'{{job="{job}"}}'
    yield Graph("Calls by method", [(f"modelyard:calls:rate5m{of} > 0", _METHODS)], "reqps")
    yield Graph(
        "Ended, by code", [(f"sum by (grpc_code) (rate(grpc_server_handled_total{of}[5m]))", "{{grpc_code}}")], "reqps"
    )
    yield Graph(
        "Share of faults of ours, by method",
        [(f"modelyard:calls_failed:ratio_rate5m{of} >= 0", _METHODS)],
        "percentunit",
    )
    for name, what in (("p50", "Median"), ("p95", "p95"), ("p99", "p99")):
        yield Graph(f"{what} by method", [(f"modelyard:calls_seconds:{name}{of} >= 0", _METHODS)], "s")
    yield Graph("Calls running, by method", [(f"modelyard:calls_running:sum{of}", _METHODS)])
    yield Graph("Concurrency, average of 5 minutes", [(f"modelyard:calls_running:avg5m{of} > 0", _METHODS)])
    yield Graph("Memory", [(f"process_resident_memory_bytes{of}", "{{instance}}")], "bytes")
    yield Graph("Processors in use", [(f"modelyard:cpu:rate5m{of}", "{{instance}}")])
    yield Graph(
        "Event loop, longest delay",
        [(f"modelyard_event_loop_lag_seconds{of}", "{{instance}}")],
        "s",
        "How late the loop was at most within 30 seconds: something blocked it.",
    )
    yield Graph(
        "Garbage collector, share of the time",
        [(f"sum by (instance) (rate(python_gc_pause_seconds_total{of}[5m]))", "{{instance}}")],
        "percentunit",
        "Nothing else runs in the process meanwhile.",
    )
    for way, what in (("received", "Messages received"), ("sent", "Messages sent")):
        size = f"sum by (grpc_method, le) (rate(grpc_server_msg_{way}_bytes_bucket{of}[5m]))"
        yield Graph(f"{what}, size, p95", [(f"histogram_quantile(0.95, {size}) >= 0", "{{grpc_method}}")], "bytes")
    yield Graph("Open files", [(f"process_open_fds{of}", "{{instance}}")])


def _database(job: str) -> Iterator[Shown]:
    of = f'{{job="{job}"}}'
    pool, query = "modelyard_database_pool", "modelyard_database_query"
    yield Graph(
        "Database connections",
        [
            (f"{pool}_connections{of} - {pool}_idle{of}", "in use, {{server}}"),
            (f"{pool}_connections{of}", "open, {{server}}"),
            (f"{pool}_most{of}", "allowed, {{server}}"),
        ],
    )
    yield Graph("Calls that wait for a connection", [(f"{pool}_waiting{of}", "{{instance}} {{server}}")])
    slow = f"histogram_quantile(0.95, sum by (statement, le) (rate({query}_seconds_bucket{of}[5m])))"
    yield Graph("Slowest statements, p95", [(f"topk(10, {slow} >= 0)", "{{statement}}")], "s")
    busy = f"sum by (statement) (rate({query}_seconds_count{of}[5m]))"
    yield Graph("Busiest statements", [(f"topk(10, {busy})", "{{statement}}")], "ops")
    if job == "registry":
        yield Graph(
            "Replicas behind the primary",
            [(f"modelyard_database_replica_lag_seconds{of}", "{{server}}")],
            "s",
            "Empty where there are no replicas.",
        )


def _objects() -> Iterator[Shown]:
    """
    Of the asset service: what it asks of S3.
    """
    calls = "sum by (operation, outcome) (rate(modelyard_s3_calls_total[5m]))"
    yield Graph("Calls of S3", [(calls, "{{operation}} {{outcome}}")], "reqps")
    slow = "histogram_quantile(0.95, sum by (operation, le) (rate(modelyard_s3_call_seconds_bucket[5m])))"
    yield Graph("Calls of S3, p95", [(f"{slow} >= 0", "{{operation}}")], "s", "Of a download, until its first byte.")
    moved = "sum by (direction) (rate(modelyard_s3_bytes_total[5m]))"
    yield Graph("Bytes from and to S3", [(moved, "{{direction}}")], "Bps")


def _cache() -> Iterator[Shown]:
    reads = "sum by (result) (rate(modelyard_cache_reads_total[5m]))"
    yield Graph("Hits by class", [("modelyard:cache_hits:ratio_rate5m >= 0", "{{class}}")], "percentunit")
    yield Graph("Reads by where they were answered", [(reads, "{{result}}")], "reqps")
    yield Graph(
        "Calls of the origin, and reads that waited for another's",
        [
            ("sum(rate(modelyard_cache_loads_total[5m]))", "loads"),
            ("sum(rate(modelyard_cache_waits_total[5m]))", "waits"),
            ("sum(rate(modelyard_cache_renewals_total[5m]))", "renewals"),
        ],
        "reqps",
    )
    yield Graph("Since the change stream was heard of", [("modelyard_cache_stream_age_seconds", "{{service}}")], "s")
    lag = "rate(modelyard_change_stream_lag_seconds_sum[5m]) / rate(modelyard_change_stream_lag_seconds_count[5m])"
    yield Graph(
        "Changes behind their commit, mean", [(f"{lag} >= 0", "{{service}}")], "s", "Empty while nothing changes."
    )
    yield Graph("Changes told", [("rate(modelyard_cache_invalidations_total[5m])", "{{service}}")], "ops")
    yield Graph("Near level", [("modelyard_cache_near_bytes", "{{instance}}")], "bytes")
    evictions = "sum by (cause) (rate(modelyard_cache_near_evictions_total[5m]))"
    yield Graph("Left the near level", [(evictions, "{{cause}}")], "ops")
    yield Graph(
        "Valkey",
        [
            ("modelyard_cache_valkey_connections", "connections in use"),
            ("modelyard_cache_breaker_open", "left alone"),
            ("rate(modelyard_cache_valkey_unreachable_total[5m])", "commands without an answer, per second"),
        ],
    )
    values = "sum by (namespace, result) (rate(modelyard_cache_values_total[5m]))"
    yield Graph("Key-value reads", [(values, "{{namespace}} {{result}}")], "reqps")


def _gateway() -> Iterator[Shown]:
    downstream = '{job="gateway",envoy_http_conn_manager_prefix="gateway"}'
    yield Number(
        "Budget burn of availability",
        'modelyard:burn:rate1h{objective="availability"}',
        "{{objective}}",
        red=1,
        text="1 uses the budget up in exactly 30 days.",
    )
    by_class = f"sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{downstream}[5m]))"
    yield Graph("Answers by class of HTTP status", [(by_class, "{{envoy_response_code_class}}xx")], "reqps")
    calls = "sum by (envoy_grpc_bridge_method) (rate(envoy_cluster_grpc_total[5m]))"
    yield Graph("Calls by method", [(f"topk(10, {calls})", "{{envoy_grpc_bridge_method}}")], "reqps")
    yield Graph(
        "Refused, by cause",
        [("sum by (cause) (rate(envoy_gateway_refused[5m]))", "{{cause}}")],
        "reqps",
        "What was answered 401, 403 or 429, or with the codes that stand for them. Who it was is in the access log.",
    )
    time = f"sum by (le) (rate(envoy_http_downstream_rq_time_bucket{downstream}[5m]))"
    yield Graph(
        "Time to the last byte",
        [(f"histogram_quantile({share}, {time}) / 1000", f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)],
        "s",
        "Watches, uploads and downloads are among them.",
    )
    yield Graph("Requests running", [(f"envoy_http_downstream_rq_active{downstream}", "{{instance}}")])
    yield Graph("Connections", [(f"envoy_http_downstream_cx_active{downstream}", "{{instance}}")])
    shed = f"rate(envoy_http_downstream_rq_overload_close{downstream}[5m])"
    yield Graph("Shed, because memory runs out", [(shed, "{{instance}}")], "reqps")
    memory = "envoy_overload_envoy_resource_monitors_fixed_heap_pressure / 100"
    yield Graph("Memory of its bound", [(memory, "{{instance}}")], "percentunit", "Calls are shed from 95 % on.")
    yield Graph(
        "Hosts in good health",
        [("envoy_cluster_membership_healthy", "{{envoy_cluster_name}}")],
        text="Of a cluster; those that are empty have other clusters within.",
    )
    yield Graph("Retries", [("rate(envoy_cluster_upstream_rq_retry[5m])", "{{envoy_cluster_name}}")], "ops")
    s3 = 'envoy_cluster_upstream_rq_xx{envoy_cluster_name="s3"}'
    answers = f"sum by (envoy_response_code_class) (rate({s3}[5m]))"
    yield Graph("Answers of S3", [(answers, "{{envoy_response_code_class}}xx")], "reqps")
    yield Graph("Memory", [('envoy_server_memory_physical_size{job="gateway"}', "{{instance}}")], "bytes")
