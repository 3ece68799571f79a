"""
Probes use existing ports and health services; the termination grace period covers the drain.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from deploy.checks.suite import Object, Pod, Suite
from gateway.render import descriptor_set

_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
#: What services answer beside their metrics, and the gateway on its listener for operations.
PATHS = {"livenessProbe": {"/livez"}, "startupProbe": {"/livez"}, "readinessProbe": {"/readyz"}}
_CLOSING = 10.0


def probes(suite: Suite) -> Iterator[str]:
    """
    Every long-running container has all three probes, each on a port of the container.
    """
    for pod in suite.pods:
        for container in pod.main if pod.serves else []:
            ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
            for kind in _PROBES:
                where = f"{pod}, {container['name']}: {kind}"
                if kind not in container:
                    yield f"{where} is missing"
                    continue
                for asked in ("grpc", "httpGet", "tcpSocket"):
                    port = container[kind].get(asked, {}).get("port")
                    if port is not None and port not in ports and port not in ports.values():
                        yield f"{where}: the container has no port {port}"
                yield from (f"{where}: {problem}" for problem in _asked(pod, kind, container[kind]))


def grace(suite: Suite) -> Iterator[str]:
    """
    The termination grace period is longer than the drain delay, the drain and the shutdown.
    """
    for each in suite.of("Deployment"):
        pod = next(one for one in suite.pods if str(one) == f"Deployment {each['metadata']['name']}")
        server = pod.main[0]
        values = suite.environment(server)
        given = [one.partition("=")[2] for one in server["args"] if one.startswith("--drain-seconds=")]
        drain = float(given[0] if given else values["MODELYARD_DRAIN_SECONDS"])
        needed = float(values["MODELYARD_DRAIN_DELAY_SECONDS"]) + drain + _CLOSING
        if pod.spec["terminationGracePeriodSeconds"] < needed:
            yield f"{pod}: terminationGracePeriodSeconds is below {needed:g}: drain delay, drain and shutdown"


def _asked(pod: Pod, kind: str, probe: Object) -> Iterator[str]:
    if "grpc" in probe:
        service = probe["grpc"].get("service", "")
        known = {"", *_services(pod.name)}
        if service not in known:
            yield f"{pod.name} has no health service {service!r}"
        if kind == "readinessProbe" and service == "":
            yield "the health service '' reports that the process is alive, not that it is ready"
        if kind != "readinessProbe" and service != "":
            yield f"the health service {service!r} fails while a database is unavailable, which a restart does not fix"
    if "httpGet" in probe and probe["httpGet"]["path"] not in PATHS[kind]:
        yield f"{probe['httpGet']['path']} is not one of {sorted(PATHS[kind])}"
    if "grpc" not in probe and "httpGet" not in probe and pod.kind == "Deployment":
        yield "the probe is neither grpc nor httpGet"


@cache
def _services(program: str) -> tuple[str, ...]:
    files = FileDescriptorSet.FromString(descriptor_set()).file
    package = f"modelyard.{program}.v1"
    return tuple(f"{package}.{each.name}" for file in files if file.package == package for each in file.service)
