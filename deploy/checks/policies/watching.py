"""
Prometheus scrapes every metrics endpoint, and autoscalers use metrics that exist.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.checks.suite import Object, Pod, Suite, matches

#: The ports with metrics endpoints.
PAGES = ("metrics", "operations")
#: Metrics that autoscalers may use; tests/end_to_end/test_deploy.py finds them on a running suite.
METRICS = {"grpc_server_in_flight", "http_server_active_requests", "envoy_http_downstream_rq_active"}


def scraped(suite: Suite) -> Iterator[str]:
    """
    Every port with metrics has a PodMonitor whose job is the name of the service, and a NetworkPolicy that admits
    Prometheus.
    """
    monitors = suite.of("PodMonitor")
    for pod in suite.pods:
        for port in (each for each in pod.ports if each.name in PAGES and pod.kind == "Deployment"):
            if monitors and not any(_scrapes(each, pod, port.name) for each in monitors):
                yield f"{pod}: no PodMonitor scrapes its port {port.name}"
            if suite.of("NetworkPolicy") and not any(
                _admits(each, pod, port.number) for each in suite.of("NetworkPolicy")
            ):
                yield f"{pod}: Prometheus may not connect to its port {port.name}"
    for each in monitors:
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            for pod in suite.selected(each["spec"]["selector"]):
                if endpoint["port"] not in [one.name for one in pod.ports]:
                    yield f"PodMonitor {each['metadata']['name']}: {pod} has no port {endpoint['port']}"


def autoscalers(suite: Suite) -> Iterator[str]:
    """
    Autoscalers keep at least two pods and use metrics that exist.
    """
    for each in suite.of("HorizontalPodAutoscaler"):
        name, spec = each["metadata"]["name"], each["spec"]
        if not 2 <= spec["minReplicas"] < spec["maxReplicas"]:
            yield f"HorizontalPodAutoscaler {name}: not 2 <= minReplicas < maxReplicas"
        asked = {one["pods"]["metric"]["name"] for one in spec["metrics"] if one["type"] == "Pods"}
        for metric in sorted(asked - METRICS):
            yield f"HorizontalPodAutoscaler {name}: no program exports {metric}"
    for each in suite.of("Deployment"):
        if each["spec"].get("replicas", 2) < 2:
            yield f"Deployment {each['metadata']['name']}: fewer than two pods"


def _scrapes(monitor: Object, pod: Pod, port: str) -> bool:
    spec = monitor["spec"]
    return (
        spec["jobLabel"] == "app.kubernetes.io/name"
        and matches(spec["selector"], pod.labels)
        and any(each["port"] == port and each["path"] == "/metrics" for each in spec["podMetricsEndpoints"])
    )


def _admits(policy: Object, pod: Pod, port: int) -> bool:
    return matches(policy["spec"]["podSelector"], pod.labels) and any(
        one.get("namespaceSelector", {}).get("matchLabels") == {"modelyard.dev/scrapes": "true"}
        for rule in policy["spec"].get("ingress", [])
        if port in [each["port"] for each in rule.get("ports", [])]
        for one in rule.get("from", [])
    )
