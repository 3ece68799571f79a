"""
MLflow's tracking server with its model registry on PostgreSQL, in a virtual environment of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

from bench import ghz
from services.embedded.parts import Part, free_port
from services.embedded.postgres import Postgres
from services.embedded.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]
_VENV = ROOT / ".modelyard" / "peers" / "mlflow"
_LOCK = Path(__file__).with_suffix(".txt")
_WORKERS = 2


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


def create(postgres: Postgres, seconds: float, clients: int) -> ghz.Measured:
    """
    Registered models that it creates, from *clients* clients, each on one kept connection.

    Args:
        postgres: where it gets a database of its own, made anew.
    """
    postgres.sql("DROP DATABASE IF EXISTS mlflow")
    postgres.sql("CREATE DATABASE mlflow")
    port = free_port()
    supervisor = Supervisor(_VENV / "log")
    try:
        supervisor.start([_part(postgres.url("mlflow").replace("://", "+psycopg2://", 1), port)])
        return _load(port, seconds, clients)
    finally:
        supervisor.stop()


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


def _load(port: int, seconds: float, clients: int) -> ghz.Measured:
    latencies: list[float] = []
    failures: list[float] = []
    began, ends = time.perf_counter(), time.perf_counter() + seconds

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (start := time.perf_counter()) < ends:
            body = json.dumps({"name": f"bench-{uuid.uuid4()}", "description": "a model of timm"})
            connection.request(
                "POST", "/api/2.0/mlflow/registered-models/create", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            answer.read()
            (latencies if answer.status == 200 else failures).append((time.perf_counter() - start) * 1000)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured = ghz.Measured.of(latencies, len(latencies) / (time.perf_counter() - began))
    measured.codes["failed"] = len(failures)
    return measured
