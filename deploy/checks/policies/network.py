"""
NetworkPolicies allow exactly the connections that the settings of the programs require.

A connection is allowed as https://kubernetes.io/docs/concepts/services-networking/network-policies/ says: if no policy
selects the pod for that direction, or if a rule of one that does takes the peer and the port; and this at both ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from deploy.checks.suite import Object, Pod, Suite, matches

_ADDRESS = re.compile(r"([A-Za-z0-9.-]+):([0-9]+)")
_TARGETS = ("--registry", "--cache", "--cdn", "--doors")
_DEFAULTS = {"https": 443, "http": 80, "postgresql": 5432, "redis": 6379, "rediss": 6379}


@dataclass(frozen=True, slots=True, order=True)
class Arrow:
    """
    A connection from pods to pods.

    Args:
        source: the name of the pods' owner.
        target: the same.
        port: of the target.
    """

    source: str
    target: str
    port: int

    def __str__(self) -> str:
        return f"{self.source} → {self.target}:{self.port}"


# Connections between the nodes of a database cluster, which are in no setting.
_BUS = "bus"
_AMONG_THEMSELVES = {
    "valkey-cluster": {("valkey", 6379)},
    "registry-postgresql": {("registry-postgresql", 5432), ("registry-postgresql", 8000)},
    "cdn-postgresql": {("cdn-postgresql", 5432), ("cdn-postgresql", 8000)},
}


def arrows(suite: Suite) -> Iterator[str]:
    """
    Exactly the connections in the settings are allowed between pods; external addresses are reachable.
    """
    if not suite.of("NetworkPolicy"):
        return
    inside, outside = wanted(suite)
    allowed = set(_allowed(suite))
    for arrow in sorted(inside - allowed):
        yield f"{arrow} is denied, but is needed"
    for arrow in sorted(allowed - inside):
        yield f"{arrow} is allowed, but is not needed"
    for source, host, port in sorted(outside):
        pod = next(each for each in suite.pods if each.name == source)
        if not _out_of_cluster(suite, pod, port):
            yield f"{source} → {host}:{port} is denied, but is needed"


def denied(suite: Suite) -> Iterator[str]:
    """
    Default deny for every pod, in both directions.
    """
    everything = [
        each
        for each in suite.of("NetworkPolicy")
        if each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ]
    if not everything:
        yield "no NetworkPolicy denies everything else"


def wanted(suite: Suite) -> tuple[set[Arrow], set[tuple[str, str, int]]]:
    """
    Whom the programs connect to, by their settings.

    Returns:
        Connections between pods, and (pod, host, port) of those that leave the namespace.
    """
    inside: set[Arrow] = set()
    outside: set[tuple[str, str, int]] = set()
    for pod in suite.pods:
        for host, port in set(_addresses(suite, pod)):
            found = suite.behind(host, port)
            if found is None:
                outside.add((pod.name, host, port))
            else:
                inside |= {Arrow(pod.name, peer.name, number) for peer, number in found}
        inside |= {Arrow(pod.name, *each) for each in _AMONG_THEMSELVES.get(pod.name, ())}
        if _BUS in [port.name for port in pod.ports]:
            inside |= {Arrow(pod.name, pod.name, port.number) for port in pod.ports}
    return inside, outside


def _addresses(suite: Suite, pod: Pod) -> Iterator[tuple[str, int]]:
    for container in pod.containers:
        given = {name: value for name, value in suite.environment(container).items() if name.startswith("MODELYARD_")}
        arguments = suite.arguments(container)
        yield from _by_settings(given)
        yield from _by_arguments(arguments)
        other_s3 = "MODELYARD_S3_ENDPOINT" in given or any(one.startswith("--s3=") for one in arguments)
        if "MODELYARD_S3_BUCKET" in given and not other_s3:
            yield f"s3.{given['MODELYARD_S3_REGION']}.amazonaws.com", 443
        if "MODELYARD_CLOUDFRONT_DISTRIBUTION" in given:
            yield "cloudfront.amazonaws.com", 443


def _by_settings(given: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    for name, value in given.items():
        if name.endswith("_TARGET"):
            yield from _pairs(value)
        elif name.endswith(("_URL", "_URLS", "_ENDPOINT")) and name != "MODELYARD_S3_PUBLIC_ENDPOINT":
            yield from _places(value.split(","))


def _by_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    for one in arguments:
        name, _, value = one.partition("=")
        if name in _TARGETS:
            yield from _pairs(value)
        elif name in ("--s3", "--jwks-url"):
            yield from _places([value])


def _pairs(value: str) -> Iterator[tuple[str, int]]:
    for host, port in _ADDRESS.findall(value):
        yield host, int(port)


def _places(urls: Iterable[str]) -> Iterator[tuple[str, int]]:
    for url in urls:
        parts = urlsplit(url)
        if parts.hostname:
            yield parts.hostname, parts.port or _DEFAULTS[parts.scheme]


def _allowed(suite: Suite) -> Iterator[Arrow]:
    for source in suite.pods:
        for target in suite.pods:
            for port in {each.number for each in target.ports}:
                if _may(suite, source, target, port, "Egress") and _may(suite, target, source, port, "Ingress"):
                    yield Arrow(source.name, target.name, port)


def _may(suite: Suite, pod: Pod, peer: Pod, port: int, direction: str) -> bool:
    rules = _rules(suite, pod, direction)
    if rules is None:
        return True
    side = "to" if direction == "Egress" else "from"
    return any(
        _takes_port(rule, port) and (side not in rule or any(_takes(each, peer) for each in rule[side]))
        for rule in rules
    )


def _out_of_cluster(suite: Suite, pod: Pod, port: int) -> bool:
    rules = _rules(suite, pod, "Egress")
    if rules is None:
        return True
    return any(
        _takes_port(rule, port) and ("to" not in rule or any("ipBlock" in each for each in rule["to"]))
        for rule in rules
    )


def _rules(suite: Suite, pod: Pod, direction: str) -> list[Object] | None:
    found = [
        each["spec"]
        for each in suite.of("NetworkPolicy")
        if direction in each["spec"]["policyTypes"] and matches(each["spec"]["podSelector"], pod.labels)
    ]
    return [rule for spec in found for rule in spec.get(direction.lower(), [])] if found else None


def _takes_port(rule: Object, port: int) -> bool:
    return "ports" not in rule or any(
        each.get("port", port) == port and each.get("protocol", "TCP") == "TCP" for each in rule["ports"]
    )


def _takes(peer: Object, pod: Pod) -> bool:
    # Another namespace is none of ours; an address may be anybody's, but those of pods are not meant.
    return "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], pod.labels)
