"""
Nobody does what they like: calls need a token, wherever others than oneself can connect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploy.checks.suite import Object, Pod, Suite
from services.chassis.access import AccessMode

_SERVICES = ("registry", "cache", "cdn", "doors")
#: What brings calls from outside of the cluster.
_DOORS = ("Ingress", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "Gateway")


def access(suite: Suite) -> Iterator[str]:
    """
    Each service and the gateway ask for tokens, the same of each; or they say in so many words that they do not, and
    nothing leads to them from outside of the cluster.
    """
    found: dict[str, str] = {}
    for pod in suite.pods:
        if pod.kind == "Deployment" and pod.name in (*_SERVICES, "gateway"):
            found[str(pod)] = _mode(suite, pod)
    for pod_name, mode in found.items():
        if mode not in {str(each) for each in AccessMode} or mode == AccessMode.OFF:
            yield f"{pod_name}: no access control: add the component access, or the component open"
    if len(set(found.values())) > 1:
        yield f"programs differ in access control: {', '.join(f'{name}: {mode}' for name, mode in found.items())}"
    if AccessMode.OPEN in found.values():
        for each in suite.of("Service", *_DOORS):
            if _leads_in(each):
                yield f"{each['kind']} {each['metadata']['name']}: exposes a gateway without access control"


def _mode(suite: Suite, pod: Pod) -> str:
    (container,) = (each for each in pod.main if each["name"] == "server")
    if pod.name != "gateway":
        values: Mapping[str, str] = suite.environment(container)
        return values.get("MODELYARD_ACCESS", str(AccessMode.OFF))
    given = [each.partition("=")[2] for each in suite.arguments(container) if each.startswith("--access=")]
    return given[-1] if given else str(AccessMode.OFF)


def _leads_in(each: Object) -> bool:
    return each["kind"] in _DOORS or each["spec"].get("type", "ClusterIP") in {"LoadBalancer", "NodePort"}
