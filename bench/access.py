"""
`make bench-access`: what access by namespace costs, and how soon a revocation holds.

* A cached get, in turns, at two caches that are there for this alone: one decides by policies, one checks tokens and
  scopes only (`bench.undecided`); with the same token, Valkey, and registry. Calls per second, and the processor time
  of a call in the cache, which tells more where others load the machine.
* A revocation: from the response of SetPolicy to the first refused read at the registry's own port, at the cache's and
  through the gateway, which are asked all the time. Reads are of one client process, so that a refusal may be noticed a
  call later than it came into force.
* A decision: microseconds of `Policies.may`, remembered and not.

ROUNDS, SECONDS (of each) and REVOCATIONS can be set. With the defaults it takes less than three minutes.
"""

from __future__ import annotations

import os
import sys
import time
import timeit
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import psutil

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
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "2"))
REVOCATIONS = int(os.environ.get("REVOCATIONS", "60"))
NAMESPACES, DECISIONS = 1000, 20_000
REQUIRED_SHARE, REQUIRED_MS = 0.95, 50.0
# A revocation that has not been noticed by then is not: the bench fails in place of waiting for ever.
LONGEST = 20.0


class Bench:
    """
    The suite, with a private namespace whose reader is "bob".
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._root = modelyard.connect(stack.gateway, self._token("root", "admin"))
        self.bob = self._token("bob", "registry.read")
        self.stranger = self._token("stranger", "registry.read")
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


class Reader:
    """
    A client that reads the model.

    Args:
        target: host:port.
        token: its own.
    """

    def __init__(self, target: str, token: str) -> None:
        self._target = target
        self._client = modelyard.connect(target, token)

    def sees(self) -> bool:
        """
        Whether the model is there for it.
        """
        try:
            self._client.models.GetModel(models_pb2.GetModelRequest(name=MODEL))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    def wait(self, *, refused: bool) -> float:
        """
        Read until it succeeds or is refused; when that was.
        """
        ends = time.perf_counter() + LONGEST
        while self.sees() is refused:
            if time.perf_counter() > ends:
                raise SystemExit(f"{self._target}: {'not ' if refused else ''}refused for {LONGEST:g} s")
        return time.perf_counter()


def address(stack: Stack, service: str) -> str:
    """
    A service's own port.
    """
    host, port = stack.services[service].addresses[0]
    return f"{host}:{port}"


@dataclass(frozen=True)
class Contender:
    """
    A cache that is measured.

    Args:
        target: host:port.
        process: its launcher.
    """

    target: str
    process: psutil.Process

    @classmethod
    def start(cls, stack: Stack, name: str, module: str) -> Contender:
        """
        Start one process of the cache, beside the suite's.
        """
        port, metrics = suite.ports(1), suite.ports(1)
        part = replace(stack.services["cache"], name=name, workers=1, port=port, metrics_port=metrics).part()
        stack.run(replace(part, needs=(), argv=[sys.executable, "-m", module, "--workers", "1"]))
        found = [each for each in psutil.Process().children(recursive=True) if _listens(each, port)]
        # The launcher was there before its worker.
        return cls(f"127.0.0.1:{port}", min(found, key=lambda each: each.create_time()))

    @property
    def cpu(self) -> float:
        """
        Seconds of processor time so far.
        """
        return sum(sum(each.cpu_times()[:2]) for each in (self.process, *self.process.children(recursive=True)))


def _listens(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("MODELYARD_LISTEN") == f"127.0.0.1:{port}"
    return False


def check_contenders(bench: Bench, contenders: Mapping[str, Contender]) -> None:
    """
    Raises:
        SystemExit: one decides that should not, or the other way round: they would be compared for nothing.
    """
    for name, contender in contenders.items():
        Reader(contender.target, bench.bob).wait(refused=False)
        if Reader(contender.target, bench.stranger).sees() is not (name == CONTENDERS[1]):
            raise SystemExit(f"the cache {name!r} does not do what it is there for")


@dataclass
class Rounds:
    """
    Of one contender: calls per second, and microseconds of processor time of a call.
    """

    rates: list[float] = field(default_factory=list)
    micros: list[float] = field(default_factory=list)


def cached_gets(bench: Bench, contenders: Mapping[str, Contender], descriptors: Path) -> dict[str, Rounds]:
    """
    What each contender does, by round.
    """
    found = {each: Rounds() for each in CONTENDERS}
    for number in range(ROUNDS + 1):
        for name in CONTENDERS if number % 2 else reversed(CONTENDERS):
            contender = contenders[name]
            seconds = SECONDS if number else 1.0  # to warm up
            metadata = {"authorization": f"Bearer {bench.bob}"}
            before = contender.cpu
            measured = ghz.run(
                ghz.Load(CALL, {"name": MODEL}, contender.target, descriptors, seconds, metadata=metadata)
            )
            micros = (contender.cpu - before) / measured.codes.total() * 1e6
            if measured.failures:
                raise SystemExit(f"{name}: {measured.failures} calls failed: {dict(measured.codes)}")
            if number:
                found[name].rates.append(measured.rate)
                found[name].micros.append(micros)
                told = f"{measured.rate:>9,.0f} calls/s  {micros:>6,.0f} µs of CPU  load {os.getloadavg()[0]:.1f}"
                print(f"round {number}/{ROUNDS}  {name:<12} {told}", flush=True)
    return found


def revocations(bench: Bench, targets: Mapping[str, str]) -> dict[str, list[float]]:
    """
    Milliseconds until a revocation holds, by place.
    """
    found: dict[str, list[float]] = {place: [] for place in targets}
    readers = {place: Reader(target, bench.bob) for place, target in targets.items()}
    with ThreadPoolExecutor(len(readers)) as threads:
        for number in range(REVOCATIONS):
            bench.set_readable(readable=True)
            for reader in readers.values():
                reader.wait(refused=False)
            refused = {place: threads.submit(reader.wait, refused=True) for place, reader in readers.items()}
            bench.set_readable(readable=False)
            done = time.perf_counter()
            for place, at in refused.items():
                found[place].append(max(0.0, (at.result() - done) * 1e3))
            if number % 20 == 19:
                print(f"revocation {number + 1}/{REVOCATIONS}  load {os.getloadavg()[0]:.1f}", flush=True)
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
        contenders = {
            name: Contender.start(stack, name.replace(" ", "-"), module)
            for name, module in zip(CONTENDERS, ("services.cache", "bench.undecided"), strict=True)
        }
        check_contenders(bench, contenders)
        rounds = cached_gets(bench, contenders, descriptors)
        own = {place: address(stack, place) for place in ("registry", "cache")}
        taken = revocations(bench, {**own, "gateway": stack.gateway})
    for name, each in rounds.items():
        figures = {"calls/s": Samples(tuple(each.rates)), "µs of CPU a call": Samples(tuple(each.micros))}
        report.add(f"cached get, {name}", figures)
    worst, told = 0.0, list[str]()
    for place, values in taken.items():
        ordered = sorted(values)
        p50, p99 = ghz.percentile(ordered, 0.5), ghz.percentile(ordered, 0.99)
        worst = max(worst, p99)
        told.append(f"until a revocation holds, {place}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for what, micros in decisions().items():
        told.append(f"a decision, {what}: {micros:.2f} µs")
    decided, undecided = (rounds[name] for name in CONTENDERS)
    share = Samples(tuple(one / other for one, other in zip(decided.rates, undecided.rates, strict=True)))
    cpu = Samples(tuple(other / one for one, other in zip(decided.micros, undecided.micros, strict=True)))
    report.notes = [
        f"a cached GetModel at the cache's own port, {ROUNDS} rounds of {SECONDS:g} s; {REVOCATIONS} revocations, from "
        "the response of SetPolicy; all on one machine",
        f"calls/s, policies over scopes only, by round: {share.spread}",
        f"calls per second of CPU, likewise: {cpu.spread}",
        *told,
    ]
    report.checks = [
        Check("policies over scopes only, calls/s of a cached get", share.median, REQUIRED_SHARE, "x"),
        Check("policies over scopes only, calls per second of CPU", cpu.median, REQUIRED_SHARE, "x"),
        Check("until a revocation holds everywhere, p99", worst, REQUIRED_MS, "ms", better="lower"),
    ]
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
