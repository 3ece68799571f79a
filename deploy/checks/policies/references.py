"""
Every name leads somewhere: selectors to pods, ports to ports, and what pods refer to exists, to the last key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from deploy.checks.suite import Object, Pod, Suite, file_mounts, matches

_HASHED = re.compile(r"-[a-z0-9]{10}")


def selectors(suite: Suite) -> Iterator[str]:
    """
    Every selector selects pods: of workloads their own, of the others at least one; ports of Services are ports of
    these pods; what an autoscaler scales exists and leaves the number to it.
    """
    for each in suite.of("Deployment", "StatefulSet"):
        yield from _own(suite, each)
    for each in suite.of("Service"):
        yield from _service(suite, each)
    for each in suite.of("PodDisruptionBudget", "PodMonitor"):
        if not suite.selected(each["spec"]["selector"]):
            yield f"{_name(each)} selects no pod"
    for each in suite.of("NetworkPolicy"):
        yield from (f"{_name(each)}: {selector} selects no pod" for selector in _blind(suite, each))
    for each in suite.of("HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        found = suite.named(target["kind"], target["name"])
        if found is None or found["apiVersion"] != target["apiVersion"]:
            yield f"{_name(each)}: there is no {target['kind']} {target['name']}"
        elif "replicas" in found["spec"]:
            yield f"{_name(each)}: {target['name']} sets replicas, which every apply would reset"


def references(suite: Suite) -> Iterator[str]:
    """
    ConfigMaps, Secrets and their keys, ServiceAccounts, PriorityClasses and volumes that pods refer to exist.
    """
    secrets = suite.secrets()
    for pod in suite.pods:
        account, priority = pod.spec.get("serviceAccountName"), pod.spec.get("priorityClassName")
        if account and suite.named("ServiceAccount", account) is None:
            yield f"{pod}: there is no ServiceAccount {account}"
        if priority and suite.named("PriorityClass", priority) is None:
            yield f"{pod}: there is no PriorityClass {priority}"
        for volume in pod.spec.get("volumes", []):
            yield from (f"{pod}: {problem}" for problem in _volume(suite, secrets, volume))
        for container in pod.containers:
            yield from (f"{pod}, {container['name']}: {problem}" for problem in _environment(suite, container))
            yield from (f"{pod}, {container['name']}: {one}" for one in _files(suite, secrets, pod, container))


def checksums(suite: Suite) -> Iterator[str]:
    """
    What pods read has a checksum of its content in its name, so that a change rolls them; and they have the suite's
    label.
    """
    made = {each["metadata"]["name"] for each in suite.of("ConfigMap", "Secret")}
    for pod in suite.pods:
        used = [each["configMapRef"]["name"] for one in pod.containers for each in one.get("envFrom", [])]
        for volume in pod.spec.get("volumes", []):
            used += [volume[kind][key] for kind, key in _SOURCES if kind in volume]
        for name in sorted(set(used) & made):
            if not _HASHED.fullmatch(name[-11:]):
                yield f"{pod}: {name} has no hash in its name: changing it would not restart the pods"
        if pod.labels.get("app.kubernetes.io/part-of") != "modelyard":
            yield f"{pod}: no label app.kubernetes.io/part-of: modelyard"


_SOURCES = (("configMap", "name"), ("secret", "secretName"))


def _own(suite: Suite, owner: Object) -> Iterator[str]:
    selector, template = owner["spec"]["selector"], owner["spec"]["template"]
    labels = template["metadata"]["labels"]
    if not matches(selector, labels):
        yield f"{_name(owner)}: its selector does not match its pods"
    if [str(pod) for pod in suite.selected(selector)] != [_name(owner)]:
        yield f"{_name(owner)}: its selector also matches pods of others"
    for spread in template["spec"].get("topologySpreadConstraints", []):
        if not matches(spread["labelSelector"], labels):
            yield f"{_name(owner)}: its topology spread selects labels that it does not have"


def _service(suite: Suite, service: Object) -> Iterator[str]:
    pods = suite.selected({"matchLabels": service["spec"]["selector"]})
    if not pods:
        yield f"{_name(service)} selects no pod"
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        for pod in pods:
            if not any(target in (one.name, one.number) for one in pod.ports):
                yield f"{_name(service)}: {pod} has no port {target}"


def _blind(suite: Suite, policy: Object) -> Iterator[Object]:
    peers = [
        peer
        for side, key in (("ingress", "from"), ("egress", "to"))
        for rule in policy["spec"].get(side, [])
        for peer in rule.get(key, [])
    ]
    inside = [each["podSelector"] for each in peers if "podSelector" in each and "namespaceSelector" not in each]
    for selector in (policy["spec"]["podSelector"], *inside):
        if not suite.selected(selector):
            yield selector


def _volume(suite: Suite, secrets: dict[str, set[str]], volume: Object) -> Iterator[str]:
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        if suite.named("ConfigMap", name) is None:
            yield f"there is no ConfigMap {name}"
        keys = set(suite.config(name))
    elif "secret" in volume:
        name = volume["secret"]["secretName"]
        if name not in secrets:
            yield f"there is no Secret {name}, and nothing that creates it"
            return
        keys = secrets[name]
    else:
        return
    source = volume.get("configMap") or volume["secret"]
    for item in source.get("items", []):
        if item["key"] not in keys:
            yield f"{name} has no key {item['key']}"


def _environment(suite: Suite, container: Object) -> Iterator[str]:
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            yield f"the Secret {source['secretRef']['name']} is in the environment: secrets come from files"
        elif suite.named("ConfigMap", source["configMapRef"]["name"]) is None:
            yield f"there is no ConfigMap {source['configMapRef']['name']}"
    for variable in container.get("env", []):
        origin = variable.get("valueFrom", {})
        if "secretKeyRef" in origin:
            yield f"{variable['name']} is a secret in the environment: secrets come from files"
        if "configMapKeyRef" in origin:
            name, key = origin["configMapKeyRef"]["name"], origin["configMapKeyRef"]["key"]
            if key not in suite.config(name):
                yield f"ConfigMap {name} has no key {key}"
    volumes = {each["name"] for each in container.get("volumeMounts", [])}
    if len(volumes) != len(container.get("volumeMounts", [])):
        yield "a volume is mounted twice"


def _files(suite: Suite, secrets: dict[str, set[str]], pod: Pod, container: Object) -> Iterator[str]:
    """
    Files that settings and arguments name are keys of what is mounted there.
    """
    claimed = {each["metadata"]["name"] for each in pod.spec.get("volumeClaimTemplates", [])}
    there: set[str] = set()
    for place, volume in file_mounts(pod, container):
        source = volume.get("configMap") or volume.get("secret") or {}
        name = source.get("name") or source.get("secretName", "")
        keys = set(suite.config(name)) if "configMap" in volume else secrets.get(name, set())
        chosen = [each["path"] for each in source.get("items", [])] or keys
        there |= {f"{place}/{each}" for each in chosen}
    known = {each["name"] for each in pod.spec.get("volumes", [])} | claimed
    named = [(name, value) for name, value in suite.environment(container).items() if name.endswith("_FILE")]
    named += [(one.partition("=")[0], one.partition("=")[2]) for one in suite.arguments(container)]
    for url in (value for name, value in suite.environment(container).items() if name.endswith(("_URL", "_URLS"))):
        named += [("sslrootcert", found) for found in re.findall(r"sslrootcert=([^&,]+)", url)]
    for name, path in named:
        if path.startswith("/etc/modelyard/") and path not in there:
            yield f"{name}: no volume has {path}"
    for mount in container.get("volumeMounts", []):
        if pod.kind != "StatefulSet" and mount["name"] not in known:
            yield f"there is no volume {mount['name']}"


def _name(each: Object) -> str:
    return f"{each['kind']} {each['metadata']['name']}"
