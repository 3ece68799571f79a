"""
Probes ask on real ports, for names that the program in the pod has; and pods get the time that they need to end.
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
    Every container that goes on running has all three probes, each on a port that it has.
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
                        yield f"{where}: there is no port {port}"
                yield from (f"{where}: {problem}" for problem in _asked(pod, kind, container[kind]))


def grace(suite: Suite) -> Iterator[str]:
    """
    Kubernetes' patience is longer than the drain: the delay, the calls under way, and what it takes to close.
    """
    for each in suite.of("Deployment"):
        pod = next(one for one in suite.pods if str(one) == f"Deployment {each['metadata']['name']}")
        server = pod.main[0]
        values = suite.environment(server)
        given = [one.partition("=")[2] for one in server["args"] if one.startswith("--drain-seconds=")]
        drain = float(given[0] if given else values["MODELYARD_DRAIN_SECONDS"])
        needed = float(values["MODELYARD_DRAIN_DELAY_SECONDS"]) + drain + _CLOSING
        if pod.spec["terminationGracePeriodSeconds"] < needed:
            yield f"{pod}: terminationGracePeriodSeconds is below {needed:g}: delay, drain and closing"


def _asked(pod: Pod, kind: str, probe: Object) -> Iterator[str]:
    if "grpc" in probe:
        service = probe["grpc"].get("service", "")
        known = {"", *_services(pod.name)}
        if service not in known:
            yield f"{pod.name} has no health of {service!r}"
        if kind == "readinessProbe" and service == "":
            yield "the health of '' says that the process lives, and not that it can answer"
        if kind != "readinessProbe" and service != "":
            yield f"the health of {service!r} is bad when a database is away, which a restart does not mend"
    if "httpGet" in probe and probe["httpGet"]["path"] not in PATHS[kind]:
        yield f"{probe['httpGet']['path']} is not one of {sorted(PATHS[kind])}"
    if "grpc" not in probe and "httpGet" not in probe and pod.kind == "Deployment":
        yield "it does not ask the program"


@cache
def _services(program: str) -> tuple[str, ...]:
    files = FileDescriptorSet.FromString(descriptor_set()).file
    package = f"modelyard.{program}.v1"
    return tuple(f"{package}.{each.name}" for file in files if file.package == package for each in file.service)
