"""
`make bench-registry SCALE=10000,1000000`: the registry's calls, uncached, on one process, at each size.

For every call the median over rounds of calls/s and of the 50th, 95th and 99th percentile. Beside them, in the same run
and on the same PostgreSQL: a bare asyncpg SELECT in a loop, and MLflow's server creating registered models (PEERS=0
leaves it out). SECONDS of each call, ROUNDS of all.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

import modelyard
from bench import ghz
from bench.form import Check, Report, Samples
from bench.grown import grown, size
from bench.peers import mlflow
from bench.population import NAMESPACE, Drawn, draw, misspelt, words_of
from embedded import suite
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.supervisor import Supervisor
from gateway.render import descriptor_set
from modelyard.registry.v1 import models_pb2

PARENT = f"namespaces/{NAMESPACE}"
SCALES = [int(part) for part in os.environ.get("SCALE", "100000").split(",")]
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "4"))
PEERS = os.environ.get("PEERS", "1") != "0"
PAGE = 10  # so that page 1,000 is there with 10,000 models
WRITERS = 32

Request = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Call:
    """
    One line of the table.

    Args:
        name: of the line.
        method: Service/Method of the registry.
        requests: sent in turn; those of writes are made anew for each round.
        concurrency: calls in flight.
    """

    name: str
    method: str
    requests: list[Request]
    concurrency: int = 2


def calls(models: Sequence[Drawn], deep: str, number: int) -> list[Call]:
    """
    The calls of round *number*.

    Args:
        models: some of the population.
        deep: the token of page 1,000.
    """
    generator = random.Random(number)
    some = generator.sample(models, min(len(models), 2000))
    names = [f"{PARENT}/models/{each.model_id}" for each in some]
    batches: list[Request] = [{"parent": PARENT, "names": generator.sample(names, 100)} for _ in range(50)]
    return [
        Call("get", "ModelService/GetModel", [{"name": name} for name in names], 32),
        Call("get, one at a time", "ModelService/GetModel", [{"name": name} for name in names], 1),
        Call("batch-get (100)", "ModelService/BatchGetModels", batches),
        *(
            Call(f"search: {kind}", "ModelService/SearchModels", [{"parent": PARENT, **each} for each in wanted])
            for kind, wanted in searches(some, generator).items()
        ),
        Call("list, page 1", "ModelService/ListModels", [{"parent": PARENT, "pageSize": PAGE}]),
        Call("list, page 1,000", "ModelService/ListModels", [{"parent": PARENT, "pageSize": PAGE, "pageToken": deep}]),
        Call("leaderboard", "EvaluationService/QueryLeaderboard", leaderboards(generator)),
        Call("audit query", "AuditService/ListAuditEntries", audits(some, generator)),
        *writes(some, number, generator),
    ]


def searches(some: Sequence[Drawn], generator: random.Random) -> dict[str, list[Request]]:
    """
    Searches as people make them: one to three words of a model that is there; the same with a letter wrong; a
    condition or two; both.
    """
    kinds: dict[str, list[Request]] = {"words": [], "typo": [], "filter": [], "mixed": []}
    for each in some[:400]:
        words = words_of(each.model_id)
        asked = generator.sample(words, min(len(words), generator.choice((1, 1, 2, 3))))
        wrong = [misspelt(asked[0], generator), *asked[1:]]
        kinds["words"].append({"query": " ".join(asked)})
        kinds["typo"].append({"query": " ".join(wrong)})
        kinds["filter"].append({"filter": condition(each, generator)})
        kinds["mixed"].append({"query": asked[0], "filter": condition(each, generator)})
    return kinds


def condition(each: Drawn, generator: random.Random) -> str:
    """
    A filter that *each* meets, of one to three of the kinds that the language has.
    """
    dataset, metric, value = generator.choice(each.results)
    parts = [
        f'task = "{each.task}"',
        f"parameter_count < {each.parameter_count + 1}",
        f"labels.team:{each.labels['team']}",
        f'labels.architecture = "{each.labels["architecture"]}"',
        f"evaluations.{dataset}.{metric} > {value - 0.5:.1f}",
    ]
    return " AND ".join(generator.sample(parts, generator.choice((1, 2, 3))))


def leaderboards(generator: random.Random) -> list[Request]:
    """
    Best of a data set, with and without a bound on the size.
    """
    boards: list[Request] = []
    for dataset in ("imagenet", "imagenet-real", "imagenet-a", "imagenet-r", "imagenetv2-matched-frequency"):
        for most in ("", "parameter_count < 100000000", "parameter_count < 20000000"):
            metric = generator.choice(("top1", "top5"))
            boards.append({"parent": PARENT, "dataset": dataset, "metric": metric, "filter": most})
    return boards


def audits(some: Sequence[Drawn], generator: random.Random) -> list[Request]:
    """
    Who did what to a model; what somebody did last; what happened in an hour.
    """
    asked: list[Request] = []
    for each in some[:100]:
        asked += [
            {"resourcePrefix": f"{PARENT}/models/{each.model_id}"},
            {"actor": f"{generator.choice(some).labels['team']}@example.org", "pageSize": 20},
            {"action": "CreateModel", "startTime": "2024-01-02T00:00:00Z", "endTime": "2024-01-02T01:00:00Z"},
        ]
    return asked


def writes(some: Sequence[Drawn], number: int, generator: random.Random) -> list[Call]:
    """
    Creations from 32 clients, versions, and thousands of results; every request is a new one.
    """
    created: list[Request] = [
        {
            "parent": PARENT,
            "modelId": f"bench-{number}-{os.getpid()}-{index}",
            "model": {
                "displayName": each.display_name,
                "description": each.description,
                "task": each.task,
                "labels": each.labels,
                "parameterCount": each.parameter_count,
            },
        }
        for index, each in enumerate(generator.choices(some, k=int(2500 * SECONDS)))
    ]
    versions: list[Request] = [
        {
            "parent": f"{PARENT}/models/{each.model_id}",
            "version": {"description": "one more", "lineage": {"gitCommit": "a" * 40}},
        }
        for each in generator.choices(some, k=2000)
    ]
    recorded: list[Request] = [
        {
            "parent": PARENT,
            "evaluations": [
                {
                    "version": f"{PARENT}/models/{each.model_id}/versions/1",
                    "dataset": f"bench-{generator.randrange(50)}",
                    "metric": "top1",
                    "value": generator.uniform(0, 100),
                }
                for each in generator.choices(some, k=1000)
            ],
        }
        for _ in range(5)
    ]
    return [
        Call("create", "ModelService/CreateModel", created, WRITERS),
        Call("add version", "VersionService/CreateVersion", versions, WRITERS),
        Call("record 1,000 results", "EvaluationService/RecordEvaluations", recorded),
    ]


@contextmanager
def registry(postgres: Postgres, state: Path) -> Iterator[str]:
    """
    One process of the registry on *postgres*: its address.
    """
    service = suite.Service(
        name="registry",
        health="modelyard.registry.v1.ModelService",
        needs=(),
        environment={
            "MODELYARD_DATABASE_URL": postgres.url(user=SERVICE_ROLE),
            "MODELYARD_CDN_TARGET": "127.0.0.1:1",
            "MODELYARD_LOG_LEVEL": "error",
        },
        workers=1,
        host=os.environ.get("MODELYARD_HOST", "envoy"),
        port=suite.ports(1),
        metrics_port=suite.ports(1),
    )
    supervisor = Supervisor(state / "log")
    try:
        supervisor.start([service.part()])
        yield f"127.0.0.1:{service.port}"
    finally:
        supervisor.stop()


def page_1000(address: str) -> str:
    """
    The token of page 1,000 of the list.
    """
    with modelyard.connect(address) as yard:
        request = models_pb2.ListModelsRequest(parent=PARENT, page_size=PAGE)
        for _ in range(999):
            request.page_token = yard.models.ListModels(request).next_page_token
        return str(request.page_token)


async def bare(postgres: Postgres, models: Sequence[Drawn]) -> ghz.Measured:
    """
    What asyncpg does with one connection and one prepared statement, one after the other: the floor of a point read.
    """
    connection = await asyncpg.connect(postgres.url(user=SERVICE_ROLE))
    statement = await connection.prepare("SELECT * FROM models WHERE namespace_id = $1 AND model_id = $2")
    latencies: list[float] = []
    ends = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < ends:
        await statement.fetchrow(NAMESPACE, models[len(latencies) % len(models)].model_id)
        latencies.append((time.perf_counter() - began) * 1000)
    await connection.close()
    return ghz.Measured.of(latencies, len(latencies) / SECONDS)


Rounds = dict[str, list[ghz.Measured]]


def measure(scale: int, report: Report, made: Rounds) -> Rounds:
    """
    All rounds at one scale.
    """
    rounds: Rounds = {}
    models = list(draw(scale))[-50_000:]
    with TemporaryDirectory() as scratch, grown(scale, lambda text: print(text, flush=True)) as postgres:
        protoset = Path(scratch) / "contracts.binpb"
        protoset.write_bytes(descriptor_set())
        report.notes.append(f"{scale:,} models: {asyncio.run(size(postgres.url()))}")
        with registry(postgres, Path(scratch)) as address:
            deep = page_1000(address)
            for number in range(ROUNDS + 1):
                for call in calls(models, deep, number):
                    seconds = SECONDS if number else min(SECONDS, 2.0)  # round 0 warms up
                    load = ghz.Load(
                        f"modelyard.registry.v1.{call.method}", call.requests, address, protoset, seconds,
                        call.concurrency, min(call.concurrency, 8),
                    )  # fmt: skip
                    keep(rounds, number, scale, call.name, ghz.run(load))
                keep(rounds, number, scale, "bare asyncpg SELECT in a loop", asyncio.run(bare(postgres, models)))
        if PEERS and scale == SCALES[-1]:
            for _ in range(ROUNDS):
                made.setdefault("mlflow", []).append(mlflow.create(postgres, SECONDS, WRITERS))
    return rounds


def keep(rounds: Rounds, number: int, scale: int, name: str, measured: ghz.Measured) -> None:
    """
    Note what a call gave, unless it was to warm up.
    """
    if measured.failures:
        raise SystemExit(f"{name}: {measured.failures} calls failed: {dict(measured.codes)}")
    if number:
        rounds.setdefault(name, []).append(measured)
        print(
            f"{scale:>9,}  round {number}/{ROUNDS}  {name:<32} {measured.rate:>9,.0f} calls/s"
            f"  p50 {measured.p50_ms:8.2f}  p95 {measured.p95_ms:8.2f}  p99 {measured.p99_ms:8.2f} ms",
            flush=True,
        )


def middle(measures: Sequence[ghz.Measured], figure: str) -> float:
    """
    The median of a figure over the rounds.
    """
    return float(statistics.median(getattr(each, figure) for each in measures))


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when every target is reached.
    """
    report = Report("bench-registry", f"make bench-registry SCALE={','.join(map(str, SCALES))}")
    report.notes = [
        f"one registry process, nothing cached by us; {ROUNDS} rounds of {SECONDS:g} s",
        "client, registry and PostgreSQL share the machine's cores",
        f"calls in flight: get 32, create and add version {WRITERS}, others 2",
    ]
    made: Rounds = {}
    measured = {scale: measure(scale, report, made) for scale in SCALES}
    for scale, rounds in measured.items():
        for name, measures in rounds.items():
            add(report, f"{scale:>9,}  {name}", measures)
    if made:
        add(report, "MLflow: create a registered model", made["mlflow"])
    report.checks = checks(measured, made)
    return report.close()


def add(report: Report, name: str, measures: Sequence[ghz.Measured]) -> None:
    """
    Add a line to the table.
    """
    figures = {"calls/s": "rate", "p50 ms": "p50_ms", "p95 ms": "p95_ms", "p99 ms": "p99_ms"}
    report.add(
        name, {shown: Samples(tuple(getattr(each, figure) for each in measures)) for shown, figure in figures.items()}
    )


def checks(measured: Mapping[int, Rounds], made: Rounds) -> list[Check]:
    """
    The targets.
    """
    small, large = measured[SCALES[0]], measured[SCALES[-1]]
    found = []
    for name in large:
        if name.startswith("search"):
            found.append(Check(f"{name}, p95", middle(large[name], "p95_ms"), 25, "ms", "lower"))
            if len(SCALES) > 1:
                growth = middle(large[name], "p95_ms") / middle(small[name], "p95_ms")
                label = f"{name}, p95 at {SCALES[-1]:,} over p95 at {SCALES[0]:,}"
                found.append(Check(label, growth, 3, "x", "lower"))
    deep = middle(large["list, page 1,000"], "p50_ms") / middle(large["list, page 1"], "p50_ms")
    found.append(Check("page 1,000 over page 1, p50", deep, 1.2, "x", "lower"))
    created = middle(large["create"], "rate")
    found.append(Check(f"creates from {WRITERS} clients", created, 500, "calls/s"))
    if made:
        found.append(Check("creates over MLflow's", created / middle(made["mlflow"], "rate"), 20, "x"))
    floor = large["bare asyncpg SELECT in a loop"]
    point = middle(large["get, one at a time"], "p50_ms") / middle(floor, "p50_ms")
    found.append(Check("one point get over a bare SELECT, p50", point, 2, "x", "lower"))
    flow = middle(floor, "rate") / middle(large["get"], "rate")
    found.append(Check("bare SELECTs in a loop over point gets, calls/s", flow, 2, "x", "lower"))
    return found


if __name__ == "__main__":
    sys.exit(main())
