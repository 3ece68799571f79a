"""
`make bench-access`: what access by namespace costs, and how soon a revocation holds.

* A cached get, calls per second, in turns: at the suite's cache, which decides by policies, and at one that checks
  tokens and scopes only (`bench.undecided`); with the same token, Valkey, and registry.
* A revocation: from the response of SetPolicy to the first refused read at the registry's own port, at the cache's and
  through the gateway, which are asked all the time. Reads are of one client process, so that a refusal may be noticed a
  call later than it came into force.
* A decision: microseconds of `Policies.may`, remembered and not.

ROUNDS, SECONDS (of each) and REVOCATIONS can be set.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import timeit
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import grpc

import modelyard
from bench import ghz
from bench.form import Check, Report, Samples
from embedded import suite
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from gateway.render import descriptor_set
from modelyard.registry.v1 import models_pb2, namespaces_pb2, policies_pb2
from modelyard.tokens import mint
from services.chassis.access.identity import Identity
from services.chassis.access.policies import Bindings, Policies
from services.chassis.access.roles import Role

CALL = "modelyard.registry.v1.ModelService/GetModel"
MODEL = "namespaces/bench/models/m"
POLICY = "namespaces/bench/policy"
CONTENDERS = ("policies", "scopes only")
ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS = float(os.environ.get("SECONDS", "2"))
REVOCATIONS = int(os.environ.get("REVOCATIONS", "100"))
NAMESPACES, DECISIONS = 1000, 20_000
REQUIRED_SHARE, REQUIRED_MS = 0.95, 50.0


class Bench:
    """
    The suite, with a private namespace whose reader is "bob".
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._root = modelyard.connect(stack.gateway, self._token("root", "admin"))
        self.bob = self._token("bob", "registry.read")
        self._root.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id="bench"))
        self._root.models.CreateModel(models_pb2.CreateModelRequest(parent="namespaces/bench", model_id="m"))

    def _token(self, subject: str, *scopes: str) -> str:
        return mint(self._stack.settings.state / "access" / "key.pem", subject, scopes, 86400.0)

    def set_readable(self, *, readable: bool) -> None:
        """
        Let "bob" read the namespace, or nobody.
        """
        policy = policies_pb2.Policy(name=POLICY, private=True)
        policy.bindings.add(role=policies_pb2.Policy.ROLE_OWNER, members=["user:root"])
        if readable:
            policy.bindings.add(role=policies_pb2.Policy.ROLE_READER, members=["user:bob"])
        self._root.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))

    def read(self, target: str, *, refused: bool) -> float:
        """
        Read until it succeeds or is refused; when that was.
        """
        get = models_pb2.GetModelRequest(name=MODEL)
        with modelyard.connect(target, self.bob) as bob:
            while True:
                try:
                    bob.models.GetModel(get)
                    found = False
                except grpc.RpcError as error:
                    found = error.code() is grpc.StatusCode.NOT_FOUND
                if found is refused:
                    return time.perf_counter()


def address(stack: Stack, service: str) -> str:
    """
    A service's own port.
    """
    host, port = stack.services[service].addresses[0]
    return f"{host}:{port}"


def run_undecided(stack: Stack) -> str:
    """
    Start the cache that checks scopes only, and return its address.
    """
    of_cache, port, metrics = stack.services["cache"], suite.ports(1), suite.ports(1)
    other = replace(of_cache, name="undecided", workers=1, port=port, metrics_port=metrics)
    part = other.part()
    stack.run(
        replace(part, needs=(), argv=[each.replace("services.undecided", "bench.undecided") for each in part.argv])
    )
    return f"127.0.0.1:{port}"


def cached_gets(bench: Bench, targets: Mapping[str, str], descriptors: Path) -> dict[str, list[float]]:
    """
    Calls per second of each contender, by round.
    """
    rates: dict[str, list[float]] = {each: [] for each in CONTENDERS}
    for number in range(ROUNDS + 1):
        for contender in CONTENDERS if number % 2 else reversed(CONTENDERS):
            seconds = SECONDS if number else 1.0  # to warm up
            metadata = {"authorization": f"Bearer {bench.bob}"}
            load = ghz.Load(CALL, {"name": MODEL}, targets[contender], descriptors, seconds, metadata=metadata)
            measured = ghz.run(load)
            if measured.failures:
                raise SystemExit(f"{contender}: {measured.failures} calls failed: {dict(measured.codes)}")
            if number:
                rates[contender].append(measured.rate)
                print(f"round {number}/{ROUNDS}  {contender:<12} {measured.rate:>9,.0f} calls/s", flush=True)
    return rates


def revocations(bench: Bench, targets: Mapping[str, str]) -> dict[str, list[float]]:
    """
    Milliseconds until a revocation holds, by place.
    """
    found: dict[str, list[float]] = {place: [] for place in targets}
    for _ in range(REVOCATIONS):
        bench.set_readable(readable=True)
        for target in targets.values():
            bench.read(target, refused=False)
        ended: dict[str, float] = {}

        def poll(place: str, ended: dict[str, float] = ended) -> None:
            ended[place] = bench.read(targets[place], refused=True)

        threads = [threading.Thread(target=poll, args=(place,)) for place in targets]
        for thread in threads:
            thread.start()
        bench.set_readable(readable=False)
        done = time.perf_counter()
        for thread in threads:
            thread.join()
        for place, at in ended.items():
            found[place].append(max(0.0, (at - done) * 1e3))
    return found


def decisions() -> dict[str, float]:
    """
    Microseconds of a decision.
    """
    policies = Policies()
    rules: dict[str, Bindings | None] = {
        f"n{number}": Bindings({"user:ann": Role.READER, "group:team": Role.WRITER}, private=True)
        for number in range(NAMESPACES)
    }
    policies.apply(rules, complete=True)
    policies.heard(1, time.monotonic() + 3600)
    ann = Identity("ann", frozenset({"registry.read"}), float("inf"), frozenset({"team", "all"}))
    names = [f"n{number}" for number in range(NAMESPACES)]

    def remembered() -> None:
        policies.may(ann, "models.read", "n1")

    def forgotten() -> None:
        object.__setattr__(ann, "memo", None)
        for name in names:
            policies.may(ann, "models.read", name)

    return {
        "remembered": min(timeit.repeat(remembered, number=DECISIONS)) / DECISIONS * 1e6,
        "for the first time": min(timeit.repeat(forgotten, number=20)) / 20 / NAMESPACES * 1e6,
    }


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when decisions cost no more, and revocations take no longer, than they may.
    """
    report = Report("bench-access", "make bench-access")
    with scratch() as state, Stack(StackSettings(state=state, gateway_port=0, access="on")) as stack:
        descriptors = state / "contracts.binpb"
        descriptors.write_bytes(descriptor_set())
        bench = Bench(stack)
        bench.set_readable(readable=True)
        targets = {"policies": address(stack, "cache"), "scopes only": run_undecided(stack)}
        for target in targets.values():
            bench.read(target, refused=False)
        rates = cached_gets(bench, targets, descriptors)
        places = {"registry": address(stack, "registry"), "cache": targets["policies"], "gateway": stack.gateway}
        taken = revocations(bench, places)
    for contender in CONTENDERS:
        report.add(f"cached get, {contender}", {"calls/s": Samples(tuple(rates[contender]))})
    worst, told = 0.0, list[str]()
    for place, values in taken.items():
        ordered = sorted(values)
        p50, p99 = ghz.percentile(ordered, 0.5), ghz.percentile(ordered, 0.99)
        worst = max(worst, p99)
        told.append(f"until a revocation holds, {place}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for what, micros in decisions().items():
        told.append(f"a decision, {what}: {micros:.2f} µs")
    pairs = zip(rates["policies"], rates["scopes only"], strict=True)
    share = Samples(tuple(one / other for one, other in pairs))
    report.notes = [
        f"a cached GetModel at the cache's own port, {ROUNDS} rounds of {SECONDS:g} s; {REVOCATIONS} revocations, from "
        "the response of SetPolicy; all on one machine",
        f"calls/s, policies over scopes only, by round: {share.spread}",
        *told,
    ]
    report.checks = [
        Check("policies over scopes only, calls/s of a cached get", share.median, REQUIRED_SHARE, "x"),
        Check("until a revocation holds everywhere, p99", worst, REQUIRED_MS, "ms", better="lower"),
    ]
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
