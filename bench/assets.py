"""
`make bench-assets`: bytes through the gateway beside boto3's transfer manager straight to the same S3, in one run.

(upload) `upload_file` beside `upload_fileobj`, with and without the time in which the client hashes the file first.
(download) `download_file` beside `download_fileobj`, both into a file. (http) GET /assets/{sha256} beside
`download_fileobj`, both to nowhere. (memory) The asset service while eight clients upload the largest size,
which is seen in (upload) when that is measured.
(metadata) GetAsset beside GetModel, both answered by the cache's L1 cache.

Settings: PARTS=upload,download,http,memory,metadata; SIZES in bytes, of which those above LARGEST are left out;
CLIENTS=1,8 at a time, each a process; ROUNDS, a third of them (at least one) for 4 GiB and more; SECONDS of each round
of the metadata; WORKERS of each service. Files are made in TMPDIR.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

import modelyard
from bench import ghz
from bench.form import Check, Report, Samples
from bench.transfer_clients import Crew, Figures, Places, crew
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from gateway.render import descriptor_set
from modelyard.cdn.v1 import assets_pb2, assets_pb2_grpc
from modelyard.registry.v1 import models_pb2, models_pb2_grpc

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
LARGEST = int(os.environ.get("LARGEST", str(_GIB)))
SIZES = [
    size
    for size in map(int, os.environ.get("SIZES", f"{_KIB},{_MIB},{64 * _MIB},{_GIB}").split(","))
    if size <= LARGEST
]
CLIENTS = [int(count) for count in os.environ.get("CLIENTS", "1,8").split(",")]
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "4"))
WORKERS = int(os.environ.get("WORKERS", "1"))
PARENT = "namespaces/default"
HOT = 100
CONCURRENCY, CONNECTIONS = 64, 8
UPLOADERS = 8
MOST_RESIDENT = 512
# From this size on the bytes count, and not the calls.
_LARGE = 64 * _MIB
_NAMES = {
    "put": "boto3 upload",
    "send": "gRPC upload, hashed already",
    "hash and send": "gRPC upload, hashing included",
    "get": "boto3 download",
    "fetch": "gRPC download",
    "drop": "boto3 download, to nowhere",
    "browse": "HTTP GET, to nowhere",
}

Rounds = dict[str, list[Figures]]


@dataclass(frozen=True, slots=True)
class Yard:
    """
    What the measurements use.

    Args:
        stack: the whole suite.
        crew: the clients.
        protoset: the descriptors, for ghz.
        report: the results.
        resident: the asset service's memory, in bytes before and at most, in each round of `heaviest` uploads.
    """

    stack: Stack
    crew: Crew
    protoset: Path
    report: Report
    resident: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Shape:
    """
    How many clients move objects of one size.

    Args:
        size: of an object, in bytes.
        clients: at a time.
    """

    size: int
    clients: int

    @property
    def count(self) -> int:
        """
        Objects of each client in a round.
        """
        return max(1, min(100, 256 * _MIB // self.size // self.clients))

    @property
    def rounds(self) -> int:
        """
        How often it is measured.
        """
        return ROUNDS if self.total < 4 * _GIB else max(1, ROUNDS // 3)

    @property
    def numbers(self) -> range:
        """
        The rounds' numbers; round 0 warms up, where that does not take long.
        """
        return range(0 if self.total < _GIB else 1, self.rounds + 1)

    @property
    def total(self) -> int:
        """
        Bytes of all clients in a round.
        """
        return self.size * self.count * self.clients

    def __str__(self) -> str:
        return f"{spelt(self.size):>7} x {self.clients}"


def spelt(size: int) -> str:
    """
    A size for people, such as 64 MiB.
    """
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB"), (_KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def heaviest() -> Shape:
    """
    Eight clients with the largest objects.
    """
    return Shape(max(SIZES), UPLOADERS)


def shapes() -> Iterator[Shape]:
    """
    Each size with each number of clients.
    """
    for size, clients in itertools.product(SIZES, CLIENTS):
        yield Shape(size, clients)


def upload(yard: Yard) -> None:
    """
    Unseen bytes to S3, in turns.
    """
    for shape in shapes():
        rounds: Rounds = {}
        for number in shape.numbers:
            for step in ("put", "send") if number % 2 else ("send", "put"):
                yard.crew.ask(shape.clients, "files", shape.size, shape.count)
                hashed = yard.crew.move(shape.clients, shape.size, "hash") if step == "send" else None
                moved = send(yard, shape) if step == "send" else measure(yard, shape, step)
                keep(rounds, shape, number, step, moved)
                if hashed is not None:
                    keep(rounds, shape, number, "hash and send", moved.after(hashed))
                clean(yard, shape)
        add(yard.report, shape, rounds)
        compare(yard.report, shape, rounds, "send", "put", 0.7)
        compare(yard.report, shape, rounds, "hash and send", "put", None)


def download(yard: Yard) -> None:
    """
    The same bytes from S3 into files, in turns.
    """
    _read(yard, "fetch", "get", 0.7)


def browse(yard: Yard) -> None:
    """
    The same bytes from S3 to nowhere, in turns.
    """
    _read(yard, "browse", "drop", 0.9)


def _read(yard: Yard, ours: str, theirs: str, required: float) -> None:
    for size in SIZES:
        yard.crew.ask(1, "files", size, Shape(size, 1).count)
        yard.crew.ask(1, "hash")
        yard.crew.ask(1, "send")
        names = yard.crew.ask(1, "names")[0]
        for clients in CLIENTS:
            shape, rounds = Shape(size, clients), Rounds()
            for number in shape.numbers:
                for step in (theirs, ours) if number % 2 else (ours, theirs):
                    keep(rounds, shape, number, step, measure(yard, shape, step, names[: shape.count]))
            add(yard.report, shape, rounds)
            compare(yard.report, shape, rounds, ours, theirs, required)
        clean(yard, Shape(size, max(CLIENTS)))


def measure(yard: Yard, shape: Shape, step: str, *arguments: object) -> Figures:
    """
    Have the clients do a step, after what others have left to be written is written.
    """
    os.sync()
    return yard.crew.move(shape.clients, shape.size, step, *arguments)


def send(yard: Yard, shape: Shape) -> Figures:
    """
    Have the clients upload through the gateway, and watch the asset service's memory when nothing is heavier.
    """
    if shape != heaviest():
        return measure(yard, shape, "send")
    with Resident(yard.stack.pid("cdn")) as resident:
        moved = measure(yard, shape, "send")
    yard.resident.append((resident.before, resident.most))
    return moved


def clean(yard: Yard, shape: Shape) -> None:
    """
    Delete what was uploaded or downloaded, and have S3 reclaim the space when it is large.
    """
    yard.crew.ask(shape.clients, "remove")
    if shape.total < _GIB:
        return
    # By itself it waits until much of a volume is deleted.
    options = psutil.Process(yard.stack.pid("s3")).cmdline()
    port = next(option.partition("=")[2] for option in options if option.startswith("-master.port="))
    address = f"http://127.0.0.1:{port}/vol/vacuum?garbageThreshold=0.1"
    with urllib.request.urlopen(address, timeout=120) as answer:
        answer.read()


def keep(rounds: Rounds, shape: Shape, number: int, step: str, figures: Figures) -> None:
    """
    Note what a step gave, unless it was to warm up.
    """
    if number:
        rounds.setdefault(step, []).append(figures)
        print(
            f"{shape}  round {number}/{shape.rounds}  {_NAMES[step]:<30} {figures.rate / _MIB:>8,.1f} MiB/s"
            f"  p50 {figures.p50_ms:9.2f}  p95 {figures.p95_ms:9.2f} ms  clients {figures.cores:.2f} cores",
            flush=True,
        )


def add(report: Report, shape: Shape, rounds: Rounds) -> None:
    """
    Add a line for each contender to the table.
    """
    for step, measures in rounds.items():
        report.add(
            f"{shape}  {_NAMES[step]}",
            {
                "MiB/s": Samples(tuple(one.rate / _MIB for one in measures)),
                "p50 ms": Samples(tuple(one.p50_ms for one in measures)),
                "p95 ms": Samples(tuple(one.p95_ms for one in measures)),
                "client cores": Samples(tuple(one.cores for one in measures)),
            },
        )


def compare(report: Report, shape: Shape, rounds: Rounds, ours: str, theirs: str, required: float | None) -> None:
    """
    Note how many times the bytes per second, round by round; and check it where the bytes count.

    Args:
        required: the target; None when there is none.
    """
    pairs = zip(rounds[ours], rounds[theirs], strict=True)
    ratios = Samples(tuple(one.rate / other.rate for one, other in pairs))
    text = f"{' '.join(str(shape).split())}: {_NAMES[ours]} over {_NAMES[theirs]}"
    report.notes.append(f"{text}, bytes/s by round: {ratios.median:.2f} x ({ratios.spread})")
    if required is not None and shape.size >= _LARGE:
        report.checks.append(Check(f"{text}, bytes/s", ratios.median, required, "x"))


class Resident:
    """
    The most memory that a process and its children have had together inside the block; what they share is counted for
    each.

    Args:
        pid: of the process.

    Attributes:
        before, most: in bytes.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.most = 0

    def __enter__(self) -> Resident:
        self.before = self.most = self._now()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        found = 0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found += process.memory_info().rss
        return found


def memory(yard: Yard) -> None:
    """
    The asset service's memory while eight clients upload at a time.
    """
    shape = heaviest()
    if not yard.resident:
        yard.crew.ask(shape.clients, "files", shape.size, shape.count)
        yard.crew.ask(shape.clients, "hash")
        send(yard, shape)
        clean(yard, shape)
    text = f"the asset service under {shape.clients} uploads of {spelt(shape.size)}, peak of resident memory"
    before, most = max(yard.resident, key=lambda each: each[1])
    yard.report.notes.append(f"{text}: {most / _MIB:,.0f} MiB, {before / _MIB:,.0f} MiB before")
    print(yard.report.notes[-1], flush=True)
    yard.report.checks.append(Check(text, most / _MIB, MOST_RESIDENT, "MiB", "lower"))


def metadata(yard: Yard) -> None:
    """
    What the cache knows of assets and of models, both near hits through the gateway, in turns.
    """
    calls = {
        "GetAsset": ("modelyard.cdn.v1.AssetService/GetAsset", _assets(yard)),
        "GetModel": ("modelyard.registry.v1.ModelService/GetModel", _models(yard)),
    }
    rounds: dict[str, list[ghz.Measured]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name in list(calls) if number % 2 else list(reversed(calls)):
            call, names = calls[name]
            requests: list[Mapping[str, object]] = [{"name": each} for each in names]
            load = ghz.Load(call, requests, yard.stack.gateway, yard.protoset, SECONDS, CONCURRENCY, CONNECTIONS)
            measured = ghz.run(load)
            if measured.failures:
                raise SystemExit(f"{name}: {measured.failures} calls failed: {dict(measured.codes)}")
            _check_near(yard, name, names)
            if number:  # round 0 warms up
                rounds[name].append(measured)
                print(f"round {number}/{ROUNDS}  near hit {name}  {_told(measured)}", flush=True)
    for name, measures in rounds.items():
        rates = Samples(tuple(one.rate for one in measures))
        yard.report.rounds[f"near hit {name}"] = {"calls/s": rates.values}
        yard.report.notes.append(f"near hit {name} through the gateway: {rates.median:,.0f} calls/s ({rates.spread})")
    pairs = zip(rounds["GetAsset"], rounds["GetModel"], strict=True)
    ratios = Samples(tuple(one.rate / other.rate for one, other in pairs))
    yard.report.notes.append(f"near hits, GetAsset over GetModel, by round: {ratios.median:.2f} x ({ratios.spread})")
    yard.report.checks.append(Check("near hits, GetAsset over GetModel, calls/s", ratios.median, 0.9, "x"))
    clean(yard, Shape(_KIB, 1))


def _told(measured: ghz.Measured) -> str:
    return (
        f"{measured.rate:>9,.0f} calls/s  p50 {measured.p50_ms:6.2f}  p95 {measured.p95_ms:6.2f} ms"
        f"  client {measured.client_cores:.2f} cores"
    )


def _assets(yard: Yard) -> list[str]:
    yard.crew.ask(1, "files", _KIB, HOT)
    yard.crew.ask(1, "hash")
    yard.crew.ask(1, "send")
    names: list[str] = yard.crew.ask(1, "names")[0]
    return names


def _models(yard: Yard) -> list[str]:
    # About as many bytes in an answer as those of an asset are.
    model = models_pb2.Model(display_name="ResNet 50", task="image-classification", framework="pytorch")
    requests = (models_pb2.CreateModelRequest(parent=PARENT, model_id=f"m{each}", model=model) for each in range(HOT))
    with modelyard.connect(yard.stack.gateway) as client:
        return [client.models.CreateModel(request).name for request in requests]


def _check_near(yard: Yard, name: str, names: Sequence[str]) -> None:
    """
    Raises:
        SystemExit: the L1 cache did not answer, so something else was measured.
    """
    with grpc.insecure_channel(yard.stack.gateway) as channel:
        assets: Any = assets_pb2_grpc.AssetServiceStub(channel)
        models: Any = models_pb2_grpc.ModelServiceStub(channel)
        read = {"GetAsset": assets.GetAsset, "GetModel": models.GetModel}[name]
        kind = {"GetAsset": assets_pb2.GetAssetRequest, "GetModel": models_pb2.GetModelRequest}[name]
        _, call = read.with_call(kind(name=names[0]))
        level = dict(call.trailing_metadata()).get("x-cache")
    if level != "near":
        raise SystemExit(f"{name}: the cache answered with x-cache {level}, not near")


_PARTS = {"upload": upload, "download": download, "http": browse, "memory": memory, "metadata": metadata}


@contextmanager
def yard(report: Report) -> Iterator[Yard]:
    """
    The suite and its clients.

    Raises:
        SystemExit: there is not enough room for the files.
    """
    with scratch() as state:
        check_room(state)
        settings = StackSettings(
            state,
            gateway_port=0,
            workers=WORKERS,
            host=os.environ.get("MODELYARD_HOST", "envoy"),
            environment={"MODELYARD_LOG_LEVEL": "error"},
        )
        with Stack(
            settings, lambda name, seconds: print(f"{name} is ready after {seconds:.1f} s", flush=True)
        ) as stack:
            folder, protoset = state / "clients", state / "bench.binpb"
            folder.mkdir()
            protoset.write_bytes(descriptor_set())
            s3 = stack.s3
            places = Places(stack.gateway, s3.endpoint, s3.access_key_file, s3.secret_key_file, folder)
            with crew(places, max(*CLIENTS, UPLOADERS)) as clients:
                yield Yard(stack, clients, protoset, report)


def check_room(folder: Path) -> None:
    """
    Raises:
        SystemExit: the largest round may not fit: what is sent and received, and what S3 has not given back yet.
    """
    needed, free = 6 * max(*CLIENTS, UPLOADERS) * max(SIZES), shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{spelt(needed)} are needed in {folder.parent}, where {spelt(free)} are free: "
            "set TMPDIR to a larger disk, or LARGEST to fewer bytes"
        )


def main() -> int:
    """
    Measure and report.

    Returns:
        The exit code: 0 when every target is reached.
    """
    if not SIZES:
        raise SystemExit(f"no size is left: LARGEST is {LARGEST} bytes")
    report = Report("bench-assets", "make bench-assets")
    report.notes = [
        f"the whole suite with {WORKERS} worker(s) of each service; up to {ROUNDS} rounds; boto3 with its default "
        "TransferConfig on the same S3",
        "clients, services, PostgreSQL and S3 share the machine's cores and its disk",
        "clients at a time are processes; all of them download the same objects",
        "hashing included: every client hashes, then every client sends; latencies are the sums of both",
    ]
    with yard(report) as found:
        for name in os.environ.get("PARTS", ",".join(_PARTS)).split(","):
            print(f"— {name}", flush=True)
            _PARTS[name](found)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
