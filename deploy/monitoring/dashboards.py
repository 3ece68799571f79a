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
    A time series panel.

    Args:
        title: of the panel.
        queries: PromQL, each with the legend of its series.
        unit: of Grafana: "reqps", "s", "percentunit", "bytes", "short".
        text: description of the panel.
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
    A stat panel of current values, red from a threshold on.
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
    A table of the methods with the largest current values.
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
        _dashboard("modelyard-doors", "Modelyard: doors", [*_doors()]),
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
        "Error budget burn rate, 1 h",
        "max by (objective) (modelyard:burn:rate1h)",
        "{{objective}}",
        red=1,
        text="At 1 the error budget of an objective is used up in exactly 30 days. Below 1 the objective is met.",
    )
    yield Graph(
        "Error budget burn rate, 6 h",
        [("max by (objective) (modelyard:burn:rate6h)", "{{objective}}")],
        text="An alert pages the on-call above 6, if the last 30 minutes burn as fast.",
    )
    yield Graph("Request rate", [("sum by (job) (modelyard:calls:rate5m)", "{{job}}")], "reqps")
    yield Graph(
        "Error rate",
        [(_errors(), "{{job}}")],
        "percentunit",
        "Share of calls with a server error: Unknown, DeadlineExceeded, Internal, Unavailable or DataLoss.",
    )
    yield Top("Slowest methods, p95 latency", "topk(15, modelyard:calls_seconds:p95 > 0)", "s")
    yield Graph(
        "p95 latency by method",
        [("topk(10, modelyard:calls_seconds:p95 > 0)", "{{job}} {{grpc_method}}")],
        "s",
    )
    yield Graph("Cache hit ratio by class", [("modelyard:cache_hits:ratio_rate5m >= 0", "{{class}}")], "percentunit")
    yield Graph("Calls in flight", [("sum by (job) (modelyard:calls_running:sum)", "{{job}}")])
    yield Graph(
        "Database connections in use", [("modelyard:database_pool:used_ratio", "{{job}} {{server}}")], "percentunit"
    )
    yield Graph(
        "Memory", [('process_resident_memory_bytes{job=~"registry|cache|cdn|doors"}', "{{job}} {{instance}}")], "bytes"
    )
    yield Graph("CPU usage", [("modelyard:cpu:rate5m", "{{job}} {{instance}}")])


def _errors() -> str:
    (found,) = [each for each in objectives() if each.name == "errors"]
    return found.bad.replace("WINDOW", "5m")


def _stored(job: str) -> Iterator[Shown]:
    """
    Panels of a service with a database.
    """
    yield Number(
        "Dependencies down",
        f'max by (dependency) (1 - modelyard_dependency_up{{job="{job}"}})',
        "{{dependency}}",
        red=1,
        text="0 is up, 1 is down.",
    )
    yield from _service(job)
    yield from _database(job)


def _valkey() -> Number:
    return Number(
        "Valkey circuit breaker",
        "modelyard_cache_breaker_open",
        "{{instance}}",
        red=1,
        text="1 while it is open: Valkey is unavailable and is not called.",
    )


def _service(job: str) -> Iterator[Shown]:
    of = f'{{job="{job}"}}'
    yield Graph("Request rate by method", [(f"modelyard:calls:rate5m{of} > 0", _METHODS)], "reqps")
    yield Graph(
        "Completed calls by status code",
        [(f"sum by (grpc_code) (rate(grpc_server_handled_total{of}[5m]))", "{{grpc_code}}")],
        "reqps",
    )
    yield Graph(
        "Error rate by method",
        [(f"modelyard:calls_failed:ratio_rate5m{of} >= 0", _METHODS)],
        "percentunit",
    )
    for name, what in (("p50", "p50"), ("p95", "p95"), ("p99", "p99")):
        yield Graph(f"{what} latency by method", [(f"modelyard:calls_seconds:{name}{of} >= 0", _METHODS)], "s")
    yield Graph("Calls in flight by method", [(f"modelyard:calls_running:sum{of}", _METHODS)])
    yield Graph("Concurrency, 5-minute average", [(f"modelyard:calls_running:avg5m{of} > 0", _METHODS)])
    yield Graph("Memory", [(f"process_resident_memory_bytes{of}", "{{instance}}")], "bytes")
    yield Graph("CPU usage", [(f"modelyard:cpu:rate5m{of}", "{{instance}}")])
    yield Graph(
        "Event loop lag, maximum",
        [(f"modelyard_event_loop_lag_seconds{of}", "{{instance}}")],
        "s",
        "Maximum delay of the event loop within 30 seconds: something blocked it.",
    )
    yield Graph(
        "Garbage collection, share of time",
        [(f"sum by (instance) (rate(python_gc_pause_seconds_total{of}[5m]))", "{{instance}}")],
        "percentunit",
        "Stop-the-world pauses of the process.",
    )
    for way, what in (("received", "Received message size"), ("sent", "Sent message size")):
        size = f"sum by (grpc_method, le) (rate(grpc_server_msg_{way}_bytes_bucket{of}[5m]))"
        yield Graph(f"{what}, p95", [(f"histogram_quantile(0.95, {size}) >= 0", "{{grpc_method}}")], "bytes")
    yield Graph("Open file descriptors", [(f"process_open_fds{of}", "{{instance}}")])


def _doors() -> Iterator[Shown]:
    of, route = '{job="doors"}', "{{http_route}}"
    yield Number(
        "Dependencies down",
        f"max by (dependency) (1 - modelyard_dependency_up{of})",
        "{{dependency}}",
        red=1,
        text="0 is up, 1 is down.",
    )
    rate = f"sum by (http_route) (modelyard:requests:rate5m{of})"
    yield Graph("Request rate by route", [(f"topk(15, {rate} > 0)", route)], "reqps")
    by_status = f"sum by (http_response_status_code) (rate(http_server_requests_total{of}[5m]))"
    yield Graph("Responses by status", [(by_status, "{{http_response_status_code}}")], "reqps")
    yield Graph(
        "Error rate by route",
        [(f"modelyard:requests_failed:ratio_rate5m{of}", route)],
        "percentunit",
        "Responses with 5xx, without 501, the answer to what is not served.",
    )
    for name in ("p95", "p99"):
        yield Graph(f"{name} latency by route", [(f"modelyard:requests_seconds:{name}{of} >= 0", route)], "s")
    active = f"sum by (http_route) (http_server_active_requests{of})"
    yield Graph("Requests in flight by route", [(active, route)])
    sent = f"sum by (http_route) (rate(http_server_response_body_bytes_total{of}[5m]))"
    yield Graph("Response bodies", [(sent, route)], "Bps", "Bytes of models come from the gateway and S3.")
    yield Graph("Memory", [(f"process_resident_memory_bytes{of}", "{{instance}}")], "bytes")
    yield Graph("CPU usage", [(f"modelyard:cpu:rate5m{of}", "{{instance}}")])
    yield Graph(
        "Event loop lag, maximum",
        [(f"modelyard_event_loop_lag_seconds{of}", "{{instance}}")],
        "s",
        "Maximum delay of the event loop within 30 seconds: something blocked it.",
    )
    yield Graph("Open file descriptors", [(f"process_open_fds{of}", "{{instance}}")])


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
    yield Graph("Calls waiting for a connection", [(f"{pool}_waiting{of}", "{{instance}} {{server}}")])
    slow = f"histogram_quantile(0.95, sum by (statement, le) (rate({query}_seconds_bucket{of}[5m])))"
    yield Graph("Slowest statements, p95 latency", [(f"topk(10, {slow} >= 0)", "{{statement}}")], "s")
    busy = f"sum by (statement) (rate({query}_seconds_count{of}[5m]))"
    yield Graph("Most frequent statements", [(f"topk(10, {busy})", "{{statement}}")], "ops")
    if job == "registry":
        yield Graph(
            "Replication lag",
            [(f"modelyard_database_replica_lag_seconds{of}", "{{server}}")],
            "s",
            "Empty where there are no replicas.",
        )


def _objects() -> Iterator[Shown]:
    """
    Panels of the asset service for S3.
    """
    calls = "sum by (operation, outcome) (rate(modelyard_s3_calls_total[5m]))"
    yield Graph("S3 request rate", [(calls, "{{operation}} {{outcome}}")], "reqps")
    slow = "histogram_quantile(0.95, sum by (operation, le) (rate(modelyard_s3_call_seconds_bucket[5m])))"
    yield Graph("S3 latency, p95", [(f"{slow} >= 0", "{{operation}}")], "s", "For downloads, time to first byte.")
    moved = "sum by (direction) (rate(modelyard_s3_bytes_total[5m]))"
    yield Graph("S3 throughput", [(moved, "{{direction}}")], "Bps")


def _cache() -> Iterator[Shown]:
    reads = "sum by (result) (rate(modelyard_cache_reads_total[5m]))"
    yield Graph("Hit ratio by class", [("modelyard:cache_hits:ratio_rate5m >= 0", "{{class}}")], "percentunit")
    yield Graph("Reads by result", [(reads, "{{result}}")], "reqps")
    yield Graph(
        "Origin loads and coalesced reads",
        [
            ("sum(rate(modelyard_cache_loads_total[5m]))", "loads"),
            ("sum(rate(modelyard_cache_waits_total[5m]))", "waits"),
            ("sum(rate(modelyard_cache_renewals_total[5m]))", "renewals"),
        ],
        "reqps",
    )
    yield Graph("Age of the change stream", [("modelyard_cache_stream_age_seconds", "{{service}}")], "s")
    lag = "rate(modelyard_change_stream_lag_seconds_sum[5m]) / rate(modelyard_change_stream_lag_seconds_count[5m])"
    yield Graph("Invalidation lag, mean", [(f"{lag} >= 0", "{{service}}")], "s", "Empty while nothing changes.")
    yield Graph("Invalidations", [("rate(modelyard_cache_invalidations_total[5m])", "{{service}}")], "ops")
    yield Graph("L1 cache size", [("modelyard_cache_near_bytes", "{{instance}}")], "bytes")
    evictions = "sum by (cause) (rate(modelyard_cache_near_evictions_total[5m]))"
    yield Graph("L1 cache evictions", [(evictions, "{{cause}}")], "ops")
    yield Graph(
        "Valkey",
        [
            ("modelyard_cache_valkey_connections", "connections in use"),
            ("modelyard_cache_breaker_open", "circuit breaker open"),
            ("rate(modelyard_cache_valkey_unreachable_total[5m])", "failed commands per second"),
        ],
    )
    values = "sum by (namespace, result) (rate(modelyard_cache_values_total[5m]))"
    yield Graph("Key-value reads", [(values, "{{namespace}} {{result}}")], "reqps")


def _gateway() -> Iterator[Shown]:
    downstream = '{job="gateway",envoy_http_conn_manager_prefix="gateway"}'
    yield Number(
        "Error budget burn rate of availability",
        'modelyard:burn:rate1h{objective="availability"}',
        "{{objective}}",
        red=1,
        text="At 1 the error budget is used up in exactly 30 days.",
    )
    by_class = f"sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{downstream}[5m]))"
    yield Graph("Responses by HTTP status class", [(by_class, "{{envoy_response_code_class}}xx")], "reqps")
    calls = "sum by (envoy_grpc_bridge_method) (rate(envoy_cluster_grpc_total[5m]))"
    yield Graph("Request rate by method", [(f"topk(10, {calls})", "{{envoy_grpc_bridge_method}}")], "reqps")
    yield Graph(
        "Rejected requests by cause",
        [("sum by (cause) (rate(envoy_gateway_refused[5m]))", "{{cause}}")],
        "reqps",
        "Responses with 401, 403 or 429, or the gRPC codes for them. The access log has the clients.",
    )
    time = f"sum by (le) (rate(envoy_http_downstream_rq_time_bucket{downstream}[5m]))"
    yield Graph(
        "Request duration",
        [(f"histogram_quantile({share}, {time}) / 1000", f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)],
        "s",
        "Includes watches, uploads and downloads.",
    )
    yield Graph("Requests in flight", [(f"envoy_http_downstream_rq_active{downstream}", "{{instance}}")])
    yield Graph("Client connections", [(f"envoy_http_downstream_cx_active{downstream}", "{{instance}}")])
    shed = f"rate(envoy_http_downstream_rq_overload_close{downstream}[5m])"
    yield Graph("Load shed for lack of memory", [(shed, "{{instance}}")], "reqps")
    memory = "envoy_overload_envoy_resource_monitors_fixed_heap_pressure / 100"
    yield Graph(
        "Memory, share of the limit", [(memory, "{{instance}}")], "percentunit", "The gateway sheds load from 95 % on."
    )
    yield Graph(
        "Healthy hosts",
        [("envoy_cluster_membership_healthy", "{{envoy_cluster_name}}")],
        text="By cluster; aggregate clusters have no hosts of their own.",
    )
    yield Graph("Retries", [("rate(envoy_cluster_upstream_rq_retry[5m])", "{{envoy_cluster_name}}")], "ops")
    s3 = 'envoy_cluster_upstream_rq_xx{envoy_cluster_name="s3"}'
    answers = f"sum by (envoy_response_code_class) (rate({s3}[5m]))"
    yield Graph("S3 responses by status class", [(answers, "{{envoy_response_code_class}}xx")], "reqps")
    yield Graph("Memory", [('envoy_server_memory_physical_size{job="gateway"}', "{{instance}}")], "bytes")
