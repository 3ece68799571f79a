"""
What every pod of ours keeps to.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.checks.suite import Object, Pod, Suite

_VOLUMES = {
    "name",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
} | {"secret"}


def images(suite: Suite) -> Iterator[str]:
    """
    Images have a version or a digest, and never `latest`; production's own image has a digest.
    """
    for pod, container in _containers(suite):
        image = container["image"]
        name, _, digest = image.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest") and not digest:
            yield f"{pod}, {container['name']}: {image} is not pinned: give it a version or a digest"
        if suite.name == "production" and pod.labels.get("app.kubernetes.io/part-of") and not digest:
            yield f"{pod}, {container['name']}: {image} has no digest"


def resources(suite: Suite) -> Iterator[str]:
    """
    Every container asks for CPU and memory and has limits of both; of memory it asks for no more than it may have.
    """
    for pod, container in _containers(suite):
        found = container.get("resources", {})
        for side in ("requests", "limits"):
            for what in ("cpu", "memory"):
                if what not in found.get(side, {}):
                    yield f"{pod}, {container['name']}: no {side} of {what}"


def restricted(suite: Suite) -> Iterator[str]:
    """
    The restricted profile of https://kubernetes.io/docs/concepts/security/pod-security-standards/, with a root file
    system that is read-only, without a token of Kubernetes' API, and as a user given by number.
    """
    for pod in suite.pods:
        if pod.spec:
            yield from (f"{pod}: {problem}" for problem in _rights(pod.spec))
        for container in pod.containers:
            yield from (f"{pod}, {container['name']}: {problem}" for problem in _privileges(container))


def rollout(suite: Suite) -> Iterator[str]:
    """
    A zero-downtime rolling update: no pod stops before a new one is ready; pods are spread over nodes and zones and
    have a PodDisruptionBudget.
    """
    budgets = suite.of("PodDisruptionBudget")
    for each in suite.of("Deployment"):
        name, spec = each["metadata"]["name"], each["spec"]
        rolling = spec.get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0:
            yield f"Deployment {name}: maxUnavailable is not 0"
        if spec.get("minReadySeconds", 0) < 3:
            yield f"Deployment {name}: minReadySeconds below 3: docs/rolling.md"
        labels = spec["template"]["metadata"]["labels"]
        if not any(labels.items() >= one["spec"]["selector"]["matchLabels"].items() for one in budgets):
            yield f"Deployment {name}: no PodDisruptionBudget"
        keys = {one["topologyKey"] for one in spec["template"]["spec"].get("topologySpreadConstraints", [])}
        if keys != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"Deployment {name}: no topology spread over zones and nodes"
        if "priorityClassName" not in spec["template"]["spec"]:
            yield f"Deployment {name}: no priorityClassName"


def _rights(spec: Object) -> Iterator[str]:
    shared = spec.get("securityContext", {})
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    if not shared.get("runAsNonRoot") or shared.get("runAsUser", 0) == 0:
        yield "runAsNonRoot and a runAsUser other than 0 are missing"
    if shared.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile is not RuntimeDefault"
    for volume in spec.get("volumes", []):
        if set(volume) - _VOLUMES:
            yield f"volume {volume['name']} has a type that is not allowed"


def _privileges(container: Object) -> Iterator[str]:
    found = container.get("securityContext", {})
    if found.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if found.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if found.get("capabilities", {}).get("drop") != ["ALL"] or found.get("capabilities", {}).get("add"):
        yield "capabilities: not exactly drop: [ALL]"
    if found.get("privileged"):
        yield "privileged"


def _containers(suite: Suite) -> Iterator[tuple[Pod, Object]]:
    for pod in suite.pods:
        for container in pod.containers:
            yield pod, container
