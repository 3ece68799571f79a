"""
A load test from its first step to its verdict.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.form import machine, product, versions
from bench.ghz import refuse_saturated
from bench.run import report, verdict
from bench.run.generators import Call, GeneratorRun, generate
from bench.run.plan import BENCH, Profile, Scenario, Step
from bench.run.requests import Requests
from bench.run.samples import Sampler
from bench.run.suite import Measured
from bench.run.warmup import is_read_there, warm
from bench.run.windows import CallStats, Record, Window, as_json, merged, recovery, slope

# The share of the run after which a service is killed.
_KILLED_AFTER = 0.5
_KILLED_SECONDS = 2.0
_MORE = 1.3  # requests than are meant to be sent: a closed loop may be a little faster


@dataclass(frozen=True, slots=True)
class Settings:
    """
    How to run a profile.

    Args:
        scale: of the time.
        open_loop: whether calls arrive at a constant rate, whether or not earlier ones have completed.
        kill: a service to kill in the middle; empty for none.
        out: the folder of the report.
        scenario: as it was asked for.
    """

    scale: float
    open_loop: bool
    kill: str
    out: Path
    scenario: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """
    The result of a step.

    Args:
        at: its start, in seconds since the start of the run.
        step: the requested load.
        rate: calls per second.
        taken: statistics of its calls, by scenario.
        cores: CPU cores used by the generators.
    """

    at: float
    step: Step
    rate: float
    taken: dict[str, CallStats]
    cores: float


class Run:
    """
    One run.

    Args:
        plan: the profile.
        wanted: the scenarios.
        measured: what is measured.
        settings: how.
    """

    def __init__(self, plan: Profile, wanted: Sequence[Scenario], measured: Measured, settings: Settings) -> None:
        self._plan, self._wanted, self._measured, self._settings = plan, wanted, measured, settings
        self._groups = {each.name: each.group for each in wanted}
        self._promised = verdict.lines(BENCH / "sla.toml")
        self._done: list[StepResult] = []
        self._events: list[str] = []
        self._killed: float | None = None

    def go(self) -> int:
        """
        Run it.

        Returns:
            The exit code of the verdict: see `verdict.CODES`.
        """
        print(f"{product()}: {self._plan.name} against {self._measured.what}", flush=True)
        with self._measured.connect() as yard, TemporaryDirectory() as scratch:
            requests = Requests(yard)
            self._warm(requests, Path(scratch))
            self._record = Record(time.time())
            sampler = Sampler(self._measured.metrics, self._record.began, self._measured.pids)
            with sampler as self._sampler:
                self._steps(requests, Path(scratch))
                self._foreign = sampler.foreign()
        return self._close()

    def _warm(self, requests: Requests, scratch: Path) -> None:
        """
        Load everything that will be requested again into the cache.
        """
        print("warming up", flush=True)
        wanted = [each for each in self._wanted if is_read_there(each)]
        data = {each.name: requests.distinct(each.requests) for each in wanted}
        warmed = warm(data, wanted, lambda shots: generate(shots, self._measured.target, scratch)[0])
        missing = {name: each for name, each in warmed.items() if each.answered < each.wanted}
        for name, each in missing.items():
            self._events.append(f"the warm-up of {name} had {each.answered:,} of {each.wanted:,} answers")

    def _steps(self, requests: Requests, scratch: Path) -> None:
        steps = list(self._plan.steps(self._settings.scale))
        whole = sum(step.seconds for step in steps)
        killer = None
        if self._settings.kill:
            killer = threading.Thread(target=self._kill, args=(_KILLED_AFTER * whole,), daemon=True)
            killer.start()
        for number, step in enumerate(steps, 1):
            at = time.time() - self._record.began
            found, cores = self._shoot(requests, step, scratch)
            taken: dict[str, CallStats] = {}
            for name, calls in found:
                each = taken.setdefault(name, CallStats())
                for call in calls:
                    each.add(call)
            all_of_it = merged(taken.values())
            done = StepResult(at, step, all_of_it.calls / step.seconds, taken, cores)
            self._done.append(done)
            p95 = all_of_it.percentiles().get("p95", float("nan"))
            so_far, users = time.time() - self._record.began, step.users + step.extra
            print(
                f"{so_far:7.0f} s of {whole:.0f}  {step.stage:<8} {users:>4} users  {done.rate:>8,.0f} calls/s"
                f"  p95 {p95:8.1f} ms  {all_of_it.errors:>6,} errors  generators {cores:.2f} cores",
                flush=True,
            )
            try:
                refuse_saturated(f"step {number}, {users} users", cores)
            except SystemExit as error:
                # What was measured before is worth keeping, and this step is not.
                self._events.append(f"the run ended early: {error}")
                self._done.pop()
                break
            for name, calls in found:
                self._record.add(name, calls)
        if killer is not None:
            # It may still be starting what it has killed.
            killer.join(60)

    def _shoot(self, requests: Requests, step: Step, scratch: Path) -> tuple[list[tuple[str, list[Call]]], float]:
        shots = [
            shot
            for users in (step.users, step.extra)
            if users
            for shot in (self._shot(requests, each, users, step.seconds) for each in self._wanted)
        ]
        found, cores = generate(shots, self._measured.target, scratch)
        return [(shot.scenario.name, calls) for shot, calls in zip(shots, found, strict=True)], cores

    def _shot(self, requests: Requests, scenario: Scenario, users: int, seconds: float) -> GeneratorRun:
        rate = max(1, round(users * self._plan.pace * scenario.share / 100))
        own = max(1, round(users * scenario.share / 100))
        data = requests.of(scenario.requests, int(rate * seconds * _MORE) + 20)
        return GeneratorRun(scenario, data, own, rate, seconds, self._settings.open_loop)

    def _kill(self, after: float) -> None:
        name, stack = self._settings.kill, self._measured.stack
        if stack is None:
            print("KILL applies to the embedded suite only; a deployed gateway is not touched", flush=True)
            return
        time.sleep(max(0.0, self._record.began + after - time.time()))
        self._killed = time.time() - self._record.began
        stack.kill(name)
        time.sleep(_KILLED_SECONDS)
        stack.revive(name)
        back = time.time() - self._record.began
        self._events.append(f"{name} was killed after {self._killed:.1f} s and served again after {back:.1f} s")

    def _close(self) -> int:
        found = self._report()
        report.write(self._settings.out, found)
        print(f"\n{found['verdict']}: {found['product']}, {self._plan.name}, {self._settings.scale:g} x its time")
        for each in self._judge("sla.toml", self._plan.without):
            print(each)
        print("\ntargets (told, not judged)")
        for each in self._judge("targets.toml", ()):
            print(each)
        for event in (*found["events"], str(self._foreign)):
            print(event)
        print(f"\nthe report is in {self._settings.out}/report.html", flush=True)
        return verdict.CODES[found["verdict"]]

    def _judge(self, name: str, without: Sequence[str]) -> list[verdict.Judged]:
        seconds = sum(done.step.seconds for done in self._done)
        calls = sum(taken.calls for taken in self._record.by_scenario.values())
        figures: dict[str, float | None] = {
            "calls_per_minute": 60 * calls / seconds,
            "hit_percent": self._sampler.hit_rate(),
            "cache_p95_ms": self._sampler.cache_p95(),
            "models": self._measured.models,
            "users": max(done.step.users + done.step.extra for done in self._done),
        }
        promised = verdict.lines(BENCH / name)
        unseen = () if self._measured.stack else ("hit_percent", "cache_p95_ms", "models")
        return verdict.judge(promised, self._record.by_scenario, self._groups, figures, without, unseen)

    def _report(self) -> dict[str, Any]:
        windows = self._record.windows()
        mode = "open" if self._settings.open_loop else "closed"
        self._tell(windows)
        return {
            "title": f"Modelyard under {self._plan.name}",
            "verdict": verdict.overall(self._judge("sla.toml", self._plan.without), self._foreign.quiet),
            "product": product(),
            "foreign": asdict(self._foreign),
            "profile": self._plan.name,
            "scenario": self._settings.scenario or "all",
            "mode": mode,
            "scale": self._settings.scale,
            "machine": machine(),
            "versions": versions(),
            "command": self._command(),
            "facts": [
                f"{time.strftime('%Y-%m-%d %H:%M')}, {self._measured.what}",
                f"{machine()}; the load comes from the same machine" if self._measured.stack else machine(),
                f"{', '.join(f'{name} {version}' for name, version in versions().items())}",
                f"{mode} loop, {self._plan.pace:g} calls a second of each user",
                f"{self._settings.scale:g} x the profile's time",
                str(self._foreign),
                f"the generators took {max(done.cores for done in self._done):.2f} cores at most",
            ],
            "events": self._events,
            "sla": verdict.as_json(self._judge("sla.toml", self._plan.without)),
            "targets": verdict.as_json(self._judge("targets.toml", ())),
            "scenarios": as_json(self._record.by_scenario),
            "windows": [each.as_json() for each in windows],
            "steps": [
                {"at": each.at, "users": each.step.users + each.step.extra, "rate": each.rate} for each in self._done
            ],
            "resources": self._sampler.curves(),
        }

    def _tell(self, windows: Sequence[Window]) -> None:
        """
        What a profile is made to show.
        """
        if self._killed is not None:
            self._say_recovery("the death of the service", recovery(windows, self._killed + 0.01, self._killed))
        if spikes := [done for done in self._done if done.step.extra]:
            ends = spikes[-1].at + spikes[-1].step.seconds
            self._say_recovery("the end of the spike", recovery(windows, ends, spikes[0].at))
        if self._plan.knee:
            self._events.append(self._knee())
        if self._plan.slope:
            for name, points in self._sampler.memory().items():
                if (grows := slope(points)) is not None:
                    self._events.append(f"the memory of {name} grew by {3600 * grows:+.1f} MiB an hour")

    def _say_recovery(self, what: str, seconds: float | None) -> None:
        said = "it did not get as before" if seconds is None else f"it was as before {seconds:.1f} s after that"
        self._events.append(f"{what}: {said}")

    def _knee(self) -> str:
        lines = [each for each in self._promised if each.kind in verdict.OF_A_PART]
        last: StepResult | None = None
        for done in self._done:
            judged = verdict.judge(lines, done.taken, self._groups, {})
            missed = [each for each in judged if each.held is False]
            if missed:
                first = ", ".join(f"{each.line.name} ({each.measured:,.4g})" for each in missed)
                at = f"{done.step.users} users and {done.rate:,.0f} calls/s"
                known = f"{last.rate:,.0f} calls/s with {last.step.users} users" if last else "below the first step"
                return f"the knee: {known}; at {at} the first to miss: {first}"
            last = done
        return f"no knee was found: the SLA holds up to {last.rate:,.0f} calls/s" if last else "nothing was run"

    def _command(self) -> str:
        settings = {
            "PROFILE": self._plan.name,
            "SCENARIO": self._settings.scenario,
            "SCALE": f"{self._settings.scale:g}" if self._settings.scale != 1 else "",
            "MODE": "open" if self._settings.open_loop else "",
            "MODELS": str(self._measured.models or ""),
            "TARGET": "" if self._measured.stack else self._measured.target.address,
            "KILL": self._settings.kill,
        }
        return " ".join(["make bench", *(f"{name}={shlex.quote(value)}" for name, value in settings.items() if value)])
