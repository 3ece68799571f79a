"""
The objects of an overlay, and what a cluster derives from them: pods, their environment, keys of Secrets, and the
targets of Services.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Object = dict[str, Any]

_VARIABLE = re.compile(r"\$\(([A-Za-z0-9_]+)\)")
# What CloudNativePG makes of a Cluster: https://cloudnative-pg.io/documentation/current/service_management/
_DATABASE_SERVICES = ("-rw", "-ro", "-r")


@dataclass(frozen=True, slots=True)
class Port:
    """
    A port of a container.
    """

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """
    A pod of a Deployment, a StatefulSet, a Job or an operator.

    Args:
        kind: of its owner.
        name: of its owner.
        labels: its own.
        spec: of the pod; empty where an operator makes it.
        ports: of all containers.
    """

    kind: str
    name: str
    labels: Mapping[str, str]
    spec: Object
    ports: tuple[Port, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def serves(self) -> bool:
        """
        Whether the manifests define it and it is no Job.
        """
        return bool(self.spec) and self.kind != "Job"

    @property
    def main(self) -> list[Object]:
        """
        The containers without init containers.
        """
        return list(self.spec.get("containers", []))

    @property
    def containers(self) -> list[Object]:
        """
        All containers, with init containers.
        """
        return [*self.main, *self.spec.get("initContainers", [])]


@dataclass(frozen=True)
class Suite:
    """
    The objects of an overlay.

    Args:
        name: of the overlay.
        objects: in Kustomize's order.
    """

    name: str
    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """
        All objects of these kinds.
        """
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object | None:
        """
        One object.
        """
        return next((each for each in self.of(kind) if each["metadata"]["name"] == name), None)

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        """
        Every kind of pod that there will be.
        """
        made = [_pod(each) for each in self.of("Deployment", "StatefulSet", "Job")]
        return (*made, *(_database_pod(each) for each in self.of("Cluster")))

    def selected(self, selector: Object) -> list[Pod]:
        """
        The pods that a label selector matches.
        """
        return [pod for pod in self.pods if matches(selector, pod.labels)]

    def environment(self, container: Object) -> dict[str, str]:
        """
        The variables of a container, as far as ConfigMaps and the manifest say.
        """
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                found |= self.config(source["configMapRef"]["name"])
        for variable in container.get("env", []):
            origin = variable.get("valueFrom", {}).get("configMapKeyRef")
            found[variable["name"]] = (
                self.config(origin["name"]).get(origin["key"], "") if origin else variable.get("value", "")
            )
        return found

    def arguments(self, container: Object) -> list[str]:
        """
        The arguments of a container, with its variables expanded.
        """
        values = self.environment(container)
        return [_VARIABLE.sub(lambda found: values.get(found[1], found[0]), each) for each in container.get("args", [])]

    def config(self, name: str) -> dict[str, str]:
        """
        The data of a ConfigMap; empty if there is none.
        """
        found = self.named("ConfigMap", name)
        return dict(found.get("data", {})) if found else {}

    def secrets(self) -> dict[str, set[str]]:
        """
        The keys of each Secret, defined here or created by an operator.
        """
        found: dict[str, set[str]] = {}
        for each in self.of("Secret"):
            found[each["metadata"]["name"]] = {*each.get("data", {}), *each.get("stringData", {})}
        for each in self.of("ExternalSecret"):
            target = each["spec"]["target"]
            template = target.get("template", {}).get("data")
            found[target["name"]] = set(template or {one["secretKey"] for one in each["spec"]["data"]})
        for each in self.of("Certificate"):
            found[each["spec"]["secretName"]] = {"tls.crt", "tls.key", "ca.crt"}
        for each in self.of("Cluster"):
            found[f"{each['metadata']['name']}-ca"] = {"ca.crt", "ca.key"}
        return found

    def behind(self, host: str, port: int) -> list[tuple[Pod, int]] | None:
        """
        The pods and target ports behind a host name in the cluster.

        Returns:
            None for a name that is not of this namespace.
        """
        service = self.named("Service", host)
        if service is None:
            names = {f"{each['metadata']['name']}{end}" for each in self.of("Cluster") for end in _DATABASE_SERVICES}
            owner = host.rpartition("-")[0]
            return [(pod, port) for pod in self.pods if pod.name == owner] if host in names else None
        pods = self.selected({"matchLabels": service["spec"]["selector"]})
        targets = [each.get("targetPort", port) for each in service["spec"]["ports"] if each["port"] == port]
        return [(pod, number) for pod in pods for target in targets for number in _numbers(pod, target)]


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """
    Whether a label selector (matchLabels, matchExpressions) matches these labels.
    """
    wanted = selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(
        _holds(each, labels) for each in selector.get("matchExpressions", [])
    )


def file_mounts(pod: Pod, container: Object) -> Iterator[tuple[str, Object]]:
    """
    The mount path and volume of each volume of a container.
    """
    volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        if mount["name"] in volumes:
            yield mount["mountPath"], volumes[mount["name"]]


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    key, operator = expression["key"], expression["operator"]
    values = expression.get("values", [])
    found: bool = {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[operator]
    return found


def _numbers(pod: Pod, target: int | str) -> list[int]:
    if isinstance(target, int):
        return [target]
    return [port.number for port in pod.ports if port.name == target]


def _pod(owner: Object) -> Pod:
    template = owner["spec"]["template"]
    ports = [
        Port(each.get("name", ""), each["containerPort"])
        for container in template["spec"]["containers"]
        for each in container.get("ports", [])
    ]
    labels = template.get("metadata", {}).get("labels", {})
    return Pod(owner["kind"], owner["metadata"]["name"], labels, template["spec"], tuple(ports))


def _database_pod(cluster: Object) -> Pod:
    name = cluster["metadata"]["name"]
    inherited = cluster["spec"].get("inheritedMetadata", {}).get("labels", {})
    ports = (Port("postgresql", 5432), Port("metrics", 9187), Port("status", 8000))
    return Pod("Cluster", name, {**inherited, "cnpg.io/cluster": name}, {}, ports)
