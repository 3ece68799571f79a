"""
A new release starts after its migrations, and only migrations may change a schema.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.checks.suite import Pod, Suite

_MIGRATED = ("registry", "cdn")


def gated(suite: Suite) -> Iterator[str]:
    """
    A Job migrates with the owner's role; an init container of the service waits for it with the service's role.
    """
    pods = {str(pod): pod for pod in suite.pods}
    for name in _MIGRATED:
        job, service = pods.get(f"Job {name}-migration"), pods.get(f"Deployment {name}")
        if job is None or job.main[0]["args"] != ["migrate", name]:
            yield f"{name}: no Job migrates its database"
            continue
        if service is None:
            yield f"there is no Deployment {name}"
            continue
        waits = [
            each for each in service.spec.get("initContainers", []) if each["args"][:3] == ["migrate", name, "--wait"]
        ]
        if not waits:
            yield f"{service}: no init container waits for its schema"
        for pod in suite.pods:
            if f"{name}-database-owner" in _secrets(pod) and pod != job:
                yield f"{pod}: it can log in as the owner of {name}'s database"


def _secrets(pod: Pod) -> set[str]:
    return {each["secret"]["secretName"] for each in pod.spec.get("volumes", []) if "secret" in each}
