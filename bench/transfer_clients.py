"""
Clients that move bytes, a process each, so that Python's one thread at a time does not hold eight of them up.

They are started once and told what to do step by step: imports and connections are not measured.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config

import modelyard
from bench import ghz
from embedded.s3 import BUCKET, REGION
from modelyard.cdn.v1 import assets_pb2
from modelyard.transfer import UploadSource

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
_BLOCK = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Places:
    """
    What the clients reach.

    Args:
        gateway: host:port.
        endpoint: of the same S3 that is behind the gateway.
        access_key_file, secret_key_file: of that S3.
        folder: for the clients' files.
    """

    gateway: str
    endpoint: str
    access_key_file: Path
    secret_key_file: Path
    folder: Path

    def s3(self) -> S3Client:
        """
        boto3 with its own defaults, but for the style of the address, which an S3 without domain names needs.
        """
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key_file.read_text().strip(),
            aws_secret_access_key=self.secret_key_file.read_text().strip(),
            config=Config(s3={"addressing_style": "path"}),
        )
        return client


@dataclass(frozen=True, slots=True)
class Moved:
    """
    What one client did in a step.

    Args:
        began, ended: by the system's monotonic clock, which all processes share, in seconds.
        cpu: that its process used, in seconds.
        latencies: of each object, in milliseconds.
    """

    began: float
    ended: float
    cpu: float
    latencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What all clients did in a step: how long it took, bytes per second, latencies of an object in milliseconds, and the
    clients' CPU in cores.
    """

    seconds: float
    rate: float
    p50_ms: float
    p95_ms: float
    cores: float

    @classmethod
    def of(cls, moved: Sequence[Moved], size: int) -> Figures:
        """
        From the first client's start to the last one's end.

        Args:
            size: of an object, in bytes.
        """
        seconds = max(each.ended for each in moved) - min(each.began for each in moved)
        latencies = sorted(latency for each in moved for latency in each.latencies)
        rate = len(latencies) / seconds
        p50, p95 = (ghz.percentile(latencies, share) for share in (0.50, 0.95))
        return cls(seconds, rate * size, p50, p95, sum(each.cpu for each in moved) / seconds)

    def after(self, before: Figures) -> Figures:
        """
        The figures of both steps together, one after the other for the same objects.
        """
        seconds = before.seconds + self.seconds
        cores = (before.cores * before.seconds + self.cores * self.seconds) / seconds
        rate = self.rate * self.seconds / seconds
        return Figures(seconds, rate, before.p50_ms + self.p50_ms, before.p95_ms + self.p95_ms, cores)


class Nowhere:
    """
    Takes bytes in any order and keeps none.
    """

    def write(self, data: bytes) -> int:
        """
        Forget *data*.
        """
        return len(data)

    def seek(self, offset: int, _whence: int = 0) -> int:
        """
        Be anywhere: with this boto3 takes the ranges as they come.
        """
        return offset

    def tell(self) -> int:
        """
        Where a download begins.
        """
        return 0


class Mover:
    """
    One client: each public method is a step that it may be told to do.

    Args:
        places: what it reaches.
        number: its own.
    """

    def __init__(self, places: Places, number: int) -> None:
        self._folder = places.folder / str(number)
        self._folder.mkdir()
        self._target = self._folder / "downloaded"
        self._yard = modelyard.connect(places.gateway)
        self._s3 = places.s3()
        self._http = http.client.HTTPConnection(places.gateway, timeout=120)
        self._buffer = memoryview(bytearray(2**20))
        self._files: list[Path] = []
        self._size = 0
        self._hashed: list[UploadSource] = []
        self._assets: list[str] = []
        self._keys: list[str] = []

    def files(self, size: int, count: int) -> None:
        """
        Have *count* files of *size* bytes that nobody has seen before.
        """
        if (self._size, len(self._files)) != (size, count):
            self._files = self._written(size, count)
            self._size = size
        for path in self._files:
            # The same bytes again would not be sent a second time.
            with path.open("r+b") as file:
                file.write(os.urandom(16))

    def hash(self) -> Moved:
        """
        Read the files for their digests, as `upload_file` does first.
        """
        self._hashed = []
        return self._each(lambda path: self._hashed.append(UploadSource.of(path)), self._files)

    def send(self) -> Moved:
        """
        Upload what was hashed, through the gateway.
        """
        return self._each(lambda file: self._assets.append(self._yard.upload_file(file).name), self._hashed)

    def put(self) -> Moved:
        """
        Upload the files with boto3, straight to S3.
        """

        def put(path: Path) -> None:
            key = f"bench/{uuid.uuid4().hex}"
            with path.open("rb") as file:
                self._s3.upload_fileobj(file, BUCKET, key)
            self._keys.append(key)

        return self._each(put, self._files)

    def fetch(self, names: Sequence[str]) -> Moved:
        """
        Download assets into a file, through the gateway.
        """
        self._target.unlink(missing_ok=True)
        return self._each(lambda name: self._yard.download_file(name, self._target), names)

    def get(self, names: Sequence[str]) -> Moved:
        """
        Download the same keys into a file with boto3, straight from S3.
        """

        def get(key: str) -> None:
            with self._target.open("wb") as file:
                self._s3.download_fileobj(BUCKET, key, file)

        self._target.unlink(missing_ok=True)
        return self._each(get, names)

    def drop(self, names: Sequence[str]) -> Moved:
        """
        The same to nowhere.
        """
        # Not of IO's type, whose methods are many more than boto3 uses.
        nowhere: Any = Nowhere()
        return self._each(lambda key: self._s3.download_fileobj(BUCKET, key, nowhere), names)

    def browse(self, names: Sequence[str]) -> Moved:
        """
        GET assets through the gateway, to nowhere.
        """
        # The gateway may have closed what nobody used for a while; the next request connects anew.
        self._http.close()
        return self._each(self._browse, names)

    def remove(self) -> None:
        """
        Delete the uploads, and their bytes at once: the service would retain them for a grace period.
        """
        for name in self._assets:
            self._yard.assets.DeleteAsset(assets_pb2.DeleteAssetRequest(name=name))
        keys = [*self._assets, *self._keys]
        self._assets, self._keys = [], []
        self._target.unlink(missing_ok=True)
        for key in keys:
            self._s3.delete_object(Bucket=BUCKET, Key=key)

    def names(self) -> list[str]:
        """
        The assets that are not removed yet.
        """
        return self._assets

    def close(self) -> None:
        """
        Remove everything and end the connections.
        """
        self.remove()
        self._yard.close()
        self._s3.close()
        self._http.close()
        shutil.rmtree(self._folder)

    def _written(self, size: int, count: int) -> list[Path]:
        for path in self._files:
            path.unlink()
        block, paths = os.urandom(_BLOCK), [self._folder / f"{number}.bin" for number in range(count)]
        for path in paths:
            with path.open("wb") as file:
                for start in range(0, size, _BLOCK):
                    file.write(block[: size - start])
        return paths

    def _browse(self, name: str) -> None:
        self._http.request("GET", f"/{name}")
        answer = self._http.getresponse()
        left = int(answer.headers["content-length"])
        while count := answer.readinto(self._buffer):
            left -= count
        if answer.status != 200 or left:
            raise RuntimeError(f"GET /{name}: status {answer.status}, {left:,} bytes missing")

    @staticmethod
    def _each(action: Callable[[T], object], items: Iterable[T]) -> Moved:
        latencies = []
        before, began = time.process_time(), time.monotonic()
        for item in items:
            at = time.monotonic()
            action(item)
            latencies.append((time.monotonic() - at) * 1000)
        return Moved(began, time.monotonic(), time.process_time() - before, tuple(latencies))


def _serve(places: Places, number: int, pipe: Connection) -> None:
    """
    A client's process: do each step that comes, until None does.
    """
    mover = Mover(places, number)
    while (order := pipe.recv()) is not None:
        step, arguments = order
        try:
            pipe.send((getattr(mover, step)(*arguments), ""))
        except Exception as error:  # noqa: BLE001 - told to whoever asked; not every error can be sent
            pipe.send((None, f"client {number}, {step}: {type(error).__name__}: {error}"))
    mover.close()


class Crew:
    """
    The clients' processes, as the bench sees them.

    Args:
        pipes: one to each.
    """

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def move(self, clients: int, size: int, step: str, *arguments: object) -> Figures:
        """
        Have the first *clients* do a step at the same time.

        Args:
            size: of an object, in bytes.

        Raises:
            SystemExit: one of them failed.
        """
        return Figures.of(self.ask(clients, step, *arguments), size)

    def ask(self, clients: int, step: str, *arguments: object) -> list[Any]:
        """
        Have the first *clients* do a step, and return what each says.

        Raises:
            SystemExit: one of them failed.
        """
        for pipe in self._pipes[:clients]:
            pipe.send((step, arguments))
        answers = [pipe.recv() for pipe in self._pipes[:clients]]
        if failures := [failure for _, failure in answers if failure]:
            raise SystemExit("\n".join(failures))
        return [answer for answer, _ in answers]


@contextmanager
def crew(places: Places, clients: int) -> Iterator[Crew]:
    """
    So many clients, ready; they end with the block.
    """
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(clients)]
    processes = [
        context.Process(target=_serve, args=(places, number, theirs), daemon=True)
        for number, (_, theirs) in enumerate(ends)
    ]
    for process, (_, theirs) in zip(processes, ends, strict=True):
        process.start()
        # So that its end is seen here.
        theirs.close()
    found = Crew([ours for ours, _ in ends])
    try:
        found.ask(clients, "names")
        yield found
    finally:
        for ours, _ in ends:
            with suppress(OSError):
                ours.send(None)
        for process in processes:
            process.join(30)
            process.kill()
