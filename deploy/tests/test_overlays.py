"""
Every overlay is valid for Kubernetes and complies with the policies; and each policy detects a violation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from deploy.checks.policies import POLICIES, Policy
from deploy.checks.policies.watching import METRICS
from deploy.checks.schemas import VERSIONS, invalid
from deploy.checks.suite import Object, Suite
from deploy.monitoring.__main__ import FOLDER as MONITORING

OVERLAYS = ("local", "production", "staging")
Change = Callable[[Suite], object]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_it(built: dict[str, Suite], overlay: str, version: str) -> None:
    """
    Every built-in object is valid by the strict schema of the oldest, a middle and the newest version of Kubernetes.
    """
    assert list(invalid(built[overlay], version)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_policy(built: dict[str, Suite], overlay: str, policy: Policy) -> None:
    """
    The overlay complies with the policy.
    """
    assert list(policy(built[overlay])) == []


def _deployment(suite: Suite, name: str) -> Object:
    found = suite.named("Deployment", name)
    assert found is not None
    return found


def _pod(suite: Suite, name: str) -> Object:
    spec: Object = _deployment(suite, name)["spec"]["template"]["spec"]
    return spec


def _server(suite: Suite, name: str) -> Object:
    container: Object = _pod(suite, name)["containers"][0]
    return container


def _config(suite: Suite, beginning: str) -> dict[str, str]:
    data: dict[str, str] = next(
        each["data"] for each in suite.of("ConfigMap") if each["metadata"]["name"].startswith(f"{beginning}-")
    )
    return data


def _policy(suite: Suite, name: str) -> Object:
    found = suite.named("NetworkPolicy", name)
    assert found is not None
    spec: Object = found["spec"]
    return spec


def _remove(kind: str, name: str) -> Change:
    def change(suite: Suite) -> None:
        kept = tuple(
            each for each in suite.objects if not (each["kind"] == kind and each["metadata"]["name"].startswith(name))
        )
        assert len(kept) < len(suite.objects)
        object.__setattr__(suite, "objects", kept)

    return change


def _set(pick: Callable[[Suite], Any], key: Any, value: Any) -> Change:
    def change(suite: Suite) -> None:
        pick(suite)[key] = value

    return change


def _env(name: str, value: str) -> Object:
    return {"name": name, "value": value}


# policy, overlay, change, message
MUTATIONS: tuple[tuple[str, str, Change, str], ...] = (
    ("access", "staging", lambda s: _config(s, "settings").pop("MODELYARD_ACCESS"), "no access control"),
    ("access", "production", _set(lambda s: _config(s, "settings"), "MODELYARD_ACCESS", "off"), "no access control"),
    (
        "access",
        "production",
        lambda s: _server(s, "cdn").setdefault("env", []).append(_env("MODELYARD_ACCESS", "read-public")),
        "programs differ in access control",
    ),
    ("access", "local", lambda s: _server(s, "gateway")["args"].pop(), "no access control"),
    (
        "access",
        "local",
        lambda s: next(each for each in s.of("Service") if each["metadata"]["name"] == "gateway")["spec"].update(
            type="LoadBalancer"
        ),
        "without access control",
    ),
    ("images", "local", _set(lambda s: _server(s, "cdn"), "image", "modelyard:latest"), "is not pinned"),
    ("images", "local", _set(lambda s: _server(s, "cdn"), "image", "modelyard"), "is not pinned"),
    ("images", "production", _set(lambda s: _server(s, "cdn"), "image", "modelyard:1.0"), "has no digest"),
    ("resources", "staging", lambda s: _server(s, "cache")["resources"]["limits"].pop("memory"), "limits of memory"),
    ("restricted", "staging", _set(lambda s: _pod(s, "cache"), "hostNetwork", True), "hostNetwork"),
    ("restricted", "staging", lambda s: _pod(s, "cache")["securityContext"].pop("runAsUser"), "runAsUser other than 0"),
    ("restricted", "staging", lambda s: _pod(s, "cdn").pop("automountServiceAccountToken"), "automountServiceAccount"),
    (
        "restricted",
        "staging",
        lambda s: _server(s, "cdn")["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        "not exactly drop",
    ),
    (
        "restricted",
        "staging",
        lambda s: _server(s, "cdn")["securityContext"].pop("readOnlyRootFilesystem"),
        "readOnlyRootFilesystem",
    ),
    (
        "restricted",
        "staging",
        lambda s: _pod(s, "cdn")["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        "has a type that is not allowed",
    ),
    (
        "rollout",
        "staging",
        lambda s: _deployment(s, "cdn")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        "maxUnavailable",
    ),
    ("rollout", "staging", _remove("PodDisruptionBudget", "cdn"), "no PodDisruptionBudget"),
    ("rollout", "staging", lambda s: _deployment(s, "cdn")["spec"].pop("minReadySeconds"), "minReadySeconds"),
    ("rollout", "staging", lambda s: _pod(s, "cdn")["topologySpreadConstraints"].pop(), "no topology spread over"),
    ("rollout", "staging", lambda s: _pod(s, "cdn").pop("priorityClassName"), "no priorityClassName"),
    ("probes", "local", lambda s: _server(s, "registry").pop("startupProbe"), "startupProbe is missing"),
    (
        "probes",
        "local",
        _set(lambda s: _server(s, "registry")["livenessProbe"]["grpc"], "port", 50052),
        "no port 50052",
    ),
    (
        "probes",
        "local",
        _set(lambda s: _server(s, "registry")["readinessProbe"]["grpc"], "service", "modelyard.registry.v1.Models"),
        "no health service 'modelyard.registry.v1.Models'",
    ),
    (
        "probes",
        "local",
        lambda s: _server(s, "registry")["readinessProbe"]["grpc"].pop("service"),
        "not that it is ready",
    ),
    (
        "probes",
        "local",
        _set(
            lambda s: _server(s, "registry")["livenessProbe"]["grpc"], "service", "modelyard.registry.v1.ModelService"
        ),
        "which a restart does not fix",
    ),
    (
        "probes",
        "production",
        _set(lambda s: _server(s, "registry")["readinessProbe"]["httpGet"], "path", "/livez"),
        "/livez is not one of",
    ),
    ("grace", "local", _set(lambda s: _pod(s, "registry"), "terminationGracePeriodSeconds", 30), "below 35"),
    ("grace", "local", _set(lambda s: _config(s, "settings"), "MODELYARD_DRAIN_SECONDS", "300"), "below 315"),
    ("grace", "local", _set(lambda s: _pod(s, "gateway"), "terminationGracePeriodSeconds", 44), "below 45"),
    (
        "selectors",
        "local",
        _set(lambda s: s.named("Service", "cdn")["spec"]["selector"], "app.kubernetes.io/name", "assets"),  # type: ignore[index]
        "Service cdn selects no pod",
    ),
    (
        "selectors",
        "local",
        _set(lambda s: s.named("Service", "gateway")["spec"]["ports"][0], "targetPort", "web"),  # type: ignore[index]
        "has no port web",
    ),
    (
        "selectors",
        "local",
        _set(lambda s: _deployment(s, "cdn")["spec"]["selector"]["matchLabels"], "app.kubernetes.io/name", "cache"),
        "its selector does not match its pods",
    ),
    (
        "selectors",
        "local",
        _set(lambda s: _policy(s, "cdn")["podSelector"]["matchLabels"], "app.kubernetes.io/name", "assets"),
        "selects no pod",
    ),
    ("selectors", "staging", _remove("Deployment", "cdn"), "there is no Deployment cdn"),
    ("selectors", "staging", _set(lambda s: _deployment(s, "cdn")["spec"], "replicas", 2), "sets replicas"),
    ("references", "staging", _remove("ConfigMap", "cdn-settings"), "there is no ConfigMap cdn-settings"),
    ("references", "staging", _remove("ExternalSecret", "cdn-database"), "there is no Secret cdn-database"),
    ("references", "production", _remove("Certificate", "cache"), "there is no Secret cache-certificate"),
    ("references", "staging", _remove("Cluster", "cdn-postgresql"), "there is no Secret cdn-postgresql-ca"),
    ("references", "staging", _remove("ServiceAccount", "cdn"), "there is no ServiceAccount cdn"),
    ("references", "staging", _remove("PriorityClass", "modelyard"), "there is no PriorityClass"),
    (
        "references",
        "staging",
        lambda s: _config(s, "cdn-settings").pop("OWNER_DATABASE_URL"),
        "has no key OWNER_DATABASE_URL",
    ),
    (
        "references",
        "staging",
        _set(lambda s: _config(s, "cdn-settings"), "MODELYARD_DATABASE_PASSWORD_FILE", "/etc/modelyard/database/pw"),
        "no volume has /etc/modelyard/database/pw",
    ),
    (
        "references",
        "production",
        lambda s: _server(s, "gateway")["args"].append("--client-ca=/etc/modelyard/public/client-ca.crt"),
        "no volume has /etc/modelyard/public/client-ca.crt",
    ),
    (
        "references",
        "staging",
        lambda s: _server(s, "cdn").update(env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {}}}]),
        "secrets come from files",
    ),
    (
        "checksums",
        "staging",
        lambda s: (
            next(each for each in s.of("ConfigMap") if each["metadata"]["name"].startswith("settings-"))[
                "metadata"
            ].update(name="settings"),
            _server(s, "cdn")["envFrom"][0]["configMapRef"].update(name="settings"),
        ),
        "settings has no hash in its name",
    ),
    (
        "checksums",
        "staging",
        lambda s: _deployment(s, "cdn")["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
        "no label",
    ),
    (
        "settings",
        "staging",
        _set(lambda s: _config(s, "cache-settings"), "MODELYARD_CACHE_NEAR_BYTES", "a lot"),
        "MODELYARD_CACHE_NEAR_BYTES",
    ),
    (
        "settings",
        "staging",
        _set(lambda s: _config(s, "settings"), "MODELYARD_DRAIN_SECOND", "5"),
        "MODELYARD_DRAIN_SECOND is not a setting",
    ),
    (
        "settings",
        "staging",
        lambda s: _config(s, "cache-settings").pop("MODELYARD_VALKEY_URL"),
        "MODELYARD_VALKEY_URL is not set",
    ),
    (
        "memory",
        "staging",
        _set(lambda s: _config(s, "cache-settings"), "MODELYARD_CACHE_NEAR_BYTES", str(1 << 30)),
        "it may cache 1024 MiB",
    ),
    ("arrows", "local", _remove("NetworkPolicy", "postgresql"), "registry → postgresql:5432 is denied"),
    (
        "arrows",
        "local",
        lambda s: (
            _policy(s, "valkey")["ingress"][0]["from"].append(
                {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "registry"}}}
            )
            or _policy(s, "registry")["egress"].append({})
        ),
        "registry → valkey:6379 is allowed, but is not needed",
    ),
    (
        "arrows",
        "staging",
        _set(lambda s: _config(s, "cdn-settings"), "MODELYARD_S3_ENDPOINT", "http://s3.example:9000"),
        "cdn → s3.example:9000 is denied",
    ),
    ("arrows", "production", _remove("NetworkPolicy", "to-valkey"), "cache → clustercfg"),
    ("arrows", "production", _remove("NetworkPolicy", "cdn"), "registry → cdn:50051 is denied"),
    ("denied", "staging", _remove("NetworkPolicy", "deny-all"), "no NetworkPolicy denies"),
    ("scraped", "staging", _remove("PodMonitor", "gateway"), "no PodMonitor scrapes its port operations"),
    ("scraped", "staging", _remove("NetworkPolicy", "metrics"), "Prometheus may not connect to its port metrics"),
    (
        "scraped",
        "staging",
        _set(lambda s: s.named("PodMonitor", "services")["spec"]["podMetricsEndpoints"][0], "port", "http"),  # type: ignore[index]
        "has no port http",
    ),
    (
        "autoscalers",
        "staging",
        _set(lambda s: s.named("HorizontalPodAutoscaler", "cdn")["spec"], "minReplicas", 1),  # type: ignore[index]
        "not 2 <= minReplicas",
    ),
    (
        "autoscalers",
        "staging",
        _set(
            lambda s: s.named("HorizontalPodAutoscaler", "cdn")["spec"]["metrics"][1]["pods"]["metric"],  # type: ignore[index]
            "name",
            "grpc_in_flight",
        ),
        "no program exports grpc_in_flight",
    ),
    ("autoscalers", "local", _set(lambda s: _deployment(s, "cdn")["spec"], "replicas", 1), "fewer than two pods"),
    ("gated", "staging", _remove("Job", "registry-migration"), "no Job migrates its database"),
    ("gated", "staging", lambda s: _pod(s, "registry").pop("initContainers"), "no init container waits for its schema"),
    (
        "gated",
        "staging",
        lambda s: _pod(s, "cache")["volumes"].append(
            {"name": "owner", "secret": {"secretName": "registry-database-owner"}}
        ),
        "can log in as the owner",
    ),
)


@pytest.mark.parametrize(
    ("name", "overlay", "change", "says"), MUTATIONS, ids=[f"{one[0]}-{number}" for number, one in enumerate(MUTATIONS)]
)
def test_policy_detects_violation(built: dict[str, Suite], name: str, overlay: str, change: Change, says: str) -> None:
    """
    A change that violates a policy is reported by that policy, with a message that names the violation.
    """
    broken = Suite(overlay, copy.deepcopy(built[overlay].objects))
    change(broken)
    policy = next(each for each in POLICIES if each.__name__ == name)
    assert says in "\n".join(policy(broken))


def test_every_policy_has_a_violation() -> None:
    """
    Each policy has a change that violates it.
    """
    assert {one[0] for one in MUTATIONS} == {policy.__name__ for policy in POLICIES}


def test_schema_detects_violation(built: dict[str, Suite]) -> None:
    """
    A misspelt field, a wrong type and a kind that the version does not have are reported.
    """
    broken = Suite("local", copy.deepcopy(built["local"].objects))
    _server(broken, "cdn")["livenessprobe"] = {}
    _deployment(broken, "cache")["spec"]["replicas"] = "two"
    _deployment(broken, "registry")["apiVersion"] = "apps/v2"
    said = "\n".join(invalid(broken, VERSIONS[-1]))
    assert "livenessprobe" in said
    assert "'two' is not of type 'integer'" in said
    assert "has no apps/v2 Deployment" in said


def test_the_adapter_serves_the_metrics_of_autoscalers() -> None:
    """
    prometheus-adapter has rules for exactly the metrics that autoscalers may use.
    """
    rules = yaml.safe_load((MONITORING / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert {rule["seriesQuery"].partition("{")[0] for rule in rules} == METRICS
