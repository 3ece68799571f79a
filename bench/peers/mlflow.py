"""
MLflow's tracking server with its model registry on PostgreSQL, in a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench import ghz
from bench.population import VERSIONS, Drawn
from embedded.parts import Part, free_port
from embedded.postgres import Postgres
from embedded.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]
_VENV = ROOT / ".modelyard" / "peers" / "mlflow"
_LOCK = Path(__file__).with_suffix(".txt")
_WORKERS = 2
_API = "/api/2.0/mlflow"
_CREATED = 1_704_067_200_000  # milliseconds: 2024-01-01


@dataclass(frozen=True, slots=True)
class Ask:
    """
    A request of its REST API.

    Args:
        path: below the API's root, such as registered-models/get.
        fields: of the query of a GET, or of the body of a POST.
        post: whether it is a POST.
    """

    path: str
    fields: Mapping[str, object]
    post: bool = False

    def send(self, connection: http.client.HTTPConnection) -> int:
        """
        The status of the answer, which is read to its end.
        """
        if self.post:
            body, kind = json.dumps(self.fields), {"Content-Type": "application/json"}
            connection.request("POST", f"{_API}/{self.path}", body, kind)
        else:
            connection.request("GET", f"{_API}/{self.path}?{urllib.parse.urlencode(self.fields)}")
        answer = connection.getresponse()
        answer.read()
        return answer.status


def installed() -> Path:
    """
    The folder of its programs; installs it once, from its own lock file.
    """
    ready = _VENV / ".ready"
    if not ready.exists():
        print("installing MLflow into .modelyard/peers/mlflow (once) …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(_VENV)], check=True)
        pip = [str(_VENV / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*pip, "-r", str(_LOCK)], check=True)
        ready.touch()
    return _VENV / "bin"


@contextmanager
def serving(postgres: Postgres, models: Sequence[Drawn] = ()) -> Iterator[int]:
    """
    The server on a database of its own, made anew: its port.

    Args:
        postgres: the server of the database.
        models: what is registered before it is measured, copied in with SQL, which is quicker than its API.
    """
    postgres.sql("DROP DATABASE IF EXISTS mlflow")
    postgres.sql("CREATE DATABASE mlflow")
    port = free_port()
    supervisor = Supervisor(_VENV / "log")
    try:
        supervisor.start([_part(postgres.url("mlflow").replace("://", "+psycopg2://", 1), port)])
        if models:
            asyncio.run(_fill(postgres.url("mlflow"), models))
        yield port
    finally:
        supervisor.stop()


def create(postgres: Postgres, seconds: float, clients: int) -> ghz.Measured:
    """
    Registered models that it creates, from *clients* clients, each on one kept connection.

    Args:
        postgres: where it gets a database of its own, made anew.
    """
    with serving(postgres) as port:
        return load(port, creations(), seconds, clients)


def creations() -> Iterator[Ask]:
    """
    Registered models without end, each a new one.
    """
    while True:
        fields = {"name": f"bench-{uuid.uuid4()}", "description": "a model of timm"}
        yield Ask("registered-models/create", fields, post=True)


def load(port: int, asks: Iterator[Ask], seconds: float, clients: int) -> ghz.Measured:
    """
    Send *asks* in turn from *clients* clients, each on one kept connection.
    """
    latencies: list[float] = []
    failures: list[float] = []
    turn = threading.Lock()
    began, ends = time.perf_counter(), time.perf_counter() + seconds
    busy = time.process_time()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < ends:
            with turn:
                ask = next(asks)
            start = time.perf_counter()
            status = ask.send(connection)
            (latencies if status == 200 else failures).append((time.perf_counter() - start) * 1000)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    cores = (time.process_time() - busy) / took
    measured = ghz.Measured.of(latencies or failures, len(latencies) / took, client_cores=cores)
    measured.codes.clear()
    measured.codes.update({"OK": len(latencies), "failed": len(failures)})
    return measured


def _part(url: str, port: int) -> Part:
    folder = installed()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(_WORKERS), "--backend-store-uri", url]

    def answers() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            answer.read()

    return Part(
        name="mlflow",
        argv=[str(folder / "mlflow"), "server", *options, "--default-artifact-root", str(_VENV / "artifacts")],
        ready=answers,
        environment={"PATH": f"{folder}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"},
        start_patience=180,
    )


async def _fill(url: str, models: Sequence[Drawn]) -> None:
    """
    The same models, versions and labels as ours.
    """
    connection = await asyncpg.connect(url)
    try:
        await connection.copy_records_to_table(
            "registered_models",
            columns=["name", "creation_time", "last_updated_time", "description"],
            records=((each.model_id, _CREATED, _CREATED, each.description) for each in models),
        )
        await connection.copy_records_to_table(
            "registered_model_tags",
            columns=["name", "key", "value"],
            records=((each.model_id, key, value) for each in models for key, value in each.labels.items()),
        )
        columns = ["name", "version", "creation_time", "last_updated_time", "current_stage", "source", "status"]
        await connection.copy_records_to_table(
            "model_versions",
            columns=columns,
            records=(
                (each.model_id, number, _CREATED, _CREATED, "None", f"s3://models/{each.model_id}/{number}", "READY")
                for each in models
                for number in range(1, VERSIONS + 1)
            ),
        )
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()
