"""
The service level objectives (SLOs), and the rules derived from them: burn rates and alerts.

A burn rate of 1 uses up an objective's budget in exactly 30 days. The windows and factors are those of the Site
Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts" (https://sre.google/workbook/alerting-on-slos/):
the long window shows that it is significant, the short one that it is still happening.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import services

#: Status codes that are server errors. Client errors do not count.
FAULTS = "Unknown|DeadlineExceeded|Internal|Unavailable|DataLoss"

#: Calls of unknown methods have this name, and are client errors.
UNSERVED = "unknown"

#: A watch lasts as long as its caller wants: neither its status nor its duration is significant.
WATCHES = "Watch.*"

WINDOWS = ("5m", "30m", "1h", "6h", "3d")

#: The folder of the runbooks, from the root of the repository.
RUNBOOKS = "docs/runbooks"


@dataclass(frozen=True, slots=True)
class Pair:
    """
    Two windows whose burn rates must both exceed *factor*.
    """

    long: str
    short: str
    factor: float


# Consumed budget: 2 % in one hour, 5 % in six hours; 10 % in three days.
_PAGES = (Pair("1h", "5m", 14.4), Pair("6h", "30m", 6))
_TICKETS = (Pair("3d", "6h", 1),)


@dataclass(frozen=True, slots=True)
class Objective:
    """
    A service level objective.

    Args:
        name: the label `objective` of its series.
        alert: the name of its alert.
        text: its statement.
        percent: target percentage of good events.
        bad: PromQL for the ratio of bad events, over the window `WINDOW`.
        severities: page, ticket or both.
    """

    name: str
    alert: str
    text: str
    percent: float
    bad: str
    severities: tuple[str, ...] = ("page", "ticket")

    @property
    def budget(self) -> float:
        """
        The error budget: the ratio of events that may be bad.
        """
        return round(1 - self.percent / 100, 6)

    def pairs(self, severity: str) -> list[Pair]:
        """
        The windows of a severity, without those that even a total failure cannot reach.
        """
        return [pair for pair in (_PAGES if severity == "page" else _TICKETS) if pair.factor * self.budget < 1]


def cached_reads() -> list[str]:
    """
    The names of the registry's cacheable reads, except searches.
    """
    return sorted(
        method.name
        for service in services()
        if service.file.package == "modelyard.registry.v1"
        for method in service.methods
        if _cache_class(method) not in ("", "searches")
    )


def objectives() -> list[Objective]:
    """
    All objectives.
    """
    reads = "|".join(cached_reads())
    registry_reads = f'job="cache",grpc_service=~"modelyard.registry.v1.+",grpc_method=~"{reads}"'
    values = 'job="cache",grpc_service="modelyard.cache.v1.KeyValueService",grpc_type="unary"'
    health = 'grpc_service="grpc.health.v1.Health",grpc_method="Check"'
    return [
        Objective(
            "availability",
            "ModelyardUnavailable",
            "99.9 % of the requests to the gateway succeed without a server error",
            99.9,
            _gateway(),
        ),
        Objective(
            "errors",
            "ModelyardErrors",
            "fewer than 0.1 % of a service's calls end with a server error",
            99.9,
            _faults(),
        ),
        Objective(
            "doors",
            "ModelyardDoorsErrors",
            "fewer than 0.1 % of the requests of clients of other registries end with a server error",
            99.9,
            _door_faults(),
        ),
        Objective(
            "doors-file",
            "ModelyardDoorsSlow",
            "95 % of the redirects to files of models take less than 250 ms",
            95,
            _slower_at_the_doors('http_route="hub.file"', "0.25"),
        ),
        Objective(
            "search",
            "ModelyardSearchSlow",
            "95 % of the registry's searches take less than 500 ms",
            95,
            _slower('job="registry",grpc_method="SearchModels"', "0.5"),
        ),
        Objective(
            "cached-get",
            "ModelyardCachedGetSlow",
            "95 % of the reads served by the cache take less than 200 ms",
            95,
            _slower(registry_reads, "0.2"),
        ),
        Objective(
            "gateway-get",
            "ModelyardGatewayGetSlow",
            "95 % of the cacheable reads take less than 250 ms, measured at the gateway",
            95,
            _slower_at_the_gateway(reads, "250"),
        ),
        Objective(
            "create",
            "ModelyardCreateSlow",
            "95 % of the registry's creations take less than 1 s",
            95,
            _slower('job="registry",grpc_method=~"Create.+"', "1.0"),
        ),
        Objective(
            "health",
            "ModelyardHealthSlow",
            "99 % of the health checks take less than 100 ms",
            99,
            _slower(health, "0.1"),
        ),
        Objective(
            "cache",
            "ModelyardCacheSlow",
            "99 % of the calls of the key-value cache take less than 50 ms",
            99,
            _slower(values, "0.05"),
        ),
        Objective(
            "hit-rate",
            "ModelyardHitRateLow",
            "90 % of the cacheable reads are cache hits",
            90,
            '1 - sum(rate(modelyard_cache_reads_total{result=~"near|shared"}[WINDOW]))'
            ' / sum(rate(modelyard_cache_reads_total{result=~"near|shared|miss"}[WINDOW]))',
            severities=("ticket",),
        ),
    ]


def rules() -> dict[str, Any]:
    """
    The rule file.
    """
    recorded, alerts = [], []
    for objective in objectives():
        recorded += list(_burns(objective))
        alerts += [_alert(objective, severity) for severity in objective.severities]
    return {
        "groups": [
            {"name": "modelyard-objectives", "interval": "30s", "rules": recorded},
            {"name": "modelyard-objective-alerts", "interval": "30s", "rules": alerts},
        ]
    }


def _burns(objective: Objective) -> Iterator[dict[str, Any]]:
    for window in WINDOWS:
        yield {
            "record": f"modelyard:burn:rate{window}",
            "expr": f"({objective.bad.replace('WINDOW', window)}) / {objective.budget:g}",
            "labels": {"objective": objective.name},
        }


def _alert(objective: Objective, severity: str) -> dict[str, Any]:
    def burns(window: str, factor: float) -> str:
        return f'modelyard:burn:rate{window}{{objective="{objective.name}"}} > {factor:g}'

    pairs = objective.pairs(severity)
    return {
        "alert": objective.alert,
        "expr": " or ".join(
            f"({burns(pair.long, pair.factor)} and {burns(pair.short, pair.factor)})" for pair in pairs
        ),
        "labels": {"severity": severity},
        "annotations": {
            "summary": f"An error budget is being consumed: {objective.text}",
            "description": 'At {{ $value | printf "%.1f" }} times the rate that uses it up in 30 days'
            "{{ with $labels.job }} ({{ . }}){{ end }}.",
            "runbook": f"{RUNBOOKS}/{objective.alert}.md",
        },
    }


def _slower(calls: str, seconds: str) -> str:
    name = "grpc_server_handling_seconds"
    return (
        f'1 - sum(rate({name}_bucket{{{calls},le="{seconds}"}}[WINDOW])) / sum(rate({name}_count{{{calls}}}[WINDOW]))'
    )


def _slower_at_the_gateway(methods: str, milliseconds: str) -> str:
    # Envoy's own buckets. Measured at the gateway, queueing in the service counts on either host: see docs/hosts.md.
    name = "envoy_cluster_grpc_upstream_rq_time"
    calls = f'envoy_grpc_bridge_service=~"modelyard_registry_v1_.+",envoy_grpc_bridge_method=~"{methods}"'
    return (
        f'1 - sum(rate({name}_bucket{{{calls},le="{milliseconds}"}}[WINDOW]))'
        f" / sum(rate({name}_count{{{calls}}}[WINDOW]))"
    )


def _faults() -> str:
    calls = f'grpc_method!~"{WATCHES}",grpc_service!="{UNSERVED}"'
    return (
        f'1 - sum by (job) (rate(grpc_server_handled_total{{{calls},grpc_code!~"{FAULTS}"}}[WINDOW]))'
        f" / sum by (job) (rate(grpc_server_handled_total{{{calls}}}[WINDOW]))"
    )


def _door_faults() -> str:
    # 501 is the answer to what is not served.
    faults = 'http_response_status_code=~"5..",http_response_status_code!="501"'
    name = "http_server_requests_total"
    return f"(sum(rate({name}{{{faults}}}[WINDOW])) or vector(0)) / sum(rate({name}[WINDOW]))"


def _slower_at_the_doors(requests: str, seconds: str) -> str:
    name = "http_server_request_duration_seconds"
    return (
        f'1 - sum(rate({name}_bucket{{{requests},le="{seconds}"}}[WINDOW]))'
        f" / sum(rate({name}_count{{{requests}}}[WINDOW]))"
    )


def _cache_class(method: MethodDescriptor) -> str:
    options = method.GetOptions()
    return (
        str(getattr(options.Extensions[policy_pb2.policy], "class")) if options.HasExtension(policy_pb2.policy) else ""
    )


def _gateway() -> str:
    # Envoy's counters are named by the number of the status code, and appear with the first such call.
    method = f'envoy_grpc_bridge_method!~"{WATCHES}"'
    s3 = 'envoy_cluster_name="s3"'
    faults = [f"envoy_cluster_grpc_{code}{{{method}}}" for code in (2, 4, 13, 14, 15)]
    faults.append(f'envoy_cluster_upstream_rq_xx{{{s3},envoy_response_code_class="5"}}')
    # JSON that the gateway answered itself: the gRPC statistics do not include it.
    faults.append("envoy_gateway_unanswered_json")
    everything = [f"envoy_cluster_grpc_total{{{method}}}", f"envoy_cluster_upstream_rq_completed{{{s3}}}", faults[-1]]
    return f"({_sum(faults)}) / ({_sum(everything)})"


def _sum(counters: list[str]) -> str:
    return " + ".join(f"(sum(rate({counter}[WINDOW])) or vector(0))" for counter in counters)
