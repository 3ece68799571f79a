"""
Two releases of the services on the same databases, the same Valkey and the same bucket, behind one gateway.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from embedded import suite
from embedded.parts import Part, free_port, socket_file
from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.s3 import BUCKET, REGION, S3
from embedded.supervisor import Supervisor
from embedded.valkey import Valkey
from gateway.bucket import Bucket
from gateway.render import Addresses

ROOT = Path(__file__).resolve().parents[3]
#: Extracted source trees of earlier releases, one per commit; kept between runs, with their bytecode.
_TREES = ROOT / ".modelyard" / "releases"
HEALTH = {
    "registry": "modelyard.registry.v1.ModelService",
    "cdn": "modelyard.cdn.v1.AssetService",
    "cache": "modelyard.cache.v1.CacheAdminService",
}
#: The services that have a database.
MIGRATED = ("registry", "cdn")
_UNUSED = ("127.0.0.1", 1)


class NoHistoryError(Exception):
    """
    The release's commit is not in this clone.
    """


@dataclass(frozen=True, slots=True)
class Release:
    """
    An earlier release, to upgrade from.

    Args:
        name: its date.
        commit: its source.
        services: the services that it has in common with this release.
        without: kinds of calls (see `Load`) that it does not support.
        retried: reasons of ABORTED on which a write is repeated while both releases run.
    """

    name: str
    commit: str
    services: tuple[str, ...]
    without: tuple[str, ...]
    retried: tuple[str, ...]

    def tree(self) -> Path:
        """
        The folder with the release's source, which is extracted at the first call.

        Raises:
            NoHistoryError: the commit is not in this clone.
        """
        folder = _TREES / self.commit
        if not folder.exists():
            _TREES.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=_TREES) as temporary:
                self._extract(Path(temporary))
                try:
                    # Atomic: another test process may do the same.
                    Path(temporary).rename(folder)
                except OSError:
                    if not folder.exists():
                        raise
                else:
                    Path(temporary).mkdir()
        return folder

    def _extract(self, folder: Path) -> None:
        command = ["git", "-C", str(ROOT), "archive", self.commit, "services", "modelyard"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.returncode:
            raise NoHistoryError(f"{self.commit} is not in this clone: `git fetch --unshallow` brings it")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
            files.extractall(folder, filter="data")


def releases() -> list[Release]:
    """
    The releases in releases.toml, the newest first.
    """
    found = tomllib.loads(Path(__file__).with_name("releases.toml").read_text(encoding="utf-8"))["release"]
    return [
        Release(each["name"], each["commit"], *(tuple(each.get(key, ())) for key in ("services", "without", "retried")))
        for each in found
    ]


@dataclass(frozen=True, slots=True)
class Data:
    """
    The data services that both releases use.

    Args:
        postgres: the server.
        databases: the name of each service's empty database.
        valkey: empty.
        s3: with its bucket.
    """

    postgres: Postgres
    databases: dict[str, str]
    valkey: Valkey
    s3: S3


class Fleet:
    """
    The services of two releases, "old" and "new", and the gateway of the new one in front of both.

    Args:
        release: the old one.
        data: what both use.
        state: a folder for logs and sockets.
    """

    def __init__(self, release: Release, data: Data, state: Path) -> None:
        self._release, self._data, self._state = release, data, state
        self._supervisor = Supervisor(state / "log")
        self._trees = {"old": release.tree(), "new": ROOT}
        self._ports = {(age, name): (free_port(), free_port()) for age in ("old", "new") for name in HEALTH}
        self._operations = free_port()
        self.gateway = f"127.0.0.1:{free_port()}"

    def start(self) -> None:
        """
        Start the old release on its own schema, and the gateway.
        """
        for name in self._release.services:
            if name in MIGRATED:
                self.migrate(name, "old")
        host, _, port = self.gateway.rpartition(":")
        addresses = Addresses(
            listen=(host, int(port)),
            admin=socket_file(self._state, "admin.sock"),
            operations=("127.0.0.1", self._operations),
            bucket=Bucket(BUCKET, REGION, self._data.s3.endpoint),
            registry=self._both("registry"),
            cdn=self._both("cdn"),
            cache=self._both("cache"),
        )

        def ready() -> None:
            self._check_healthy(1)

        part = suite.gateway(self._state, addresses, ready, self._data.s3.environment)
        self._supervisor.start([replace(part, needs=()), *self._parts("old")])

    def stop(self) -> None:
        """
        Kill everything: the data is discarded.
        """
        for name in self._supervisor.pids():
            self._supervisor.kill(name)
        self._supervisor.stop()

    def migrate(self, name: str, age: str) -> None:
        """
        Migrate a service's database to the schema of a release.
        """
        url = self._data.postgres.url(self._data.databases[name])
        environment = self._environment(age) | {"MODELYARD_DATABASE_URL": url}
        command = [sys.executable, "-m", f"services.{name}.migrate"]
        done = subprocess.run(
            command, env=environment, cwd=self._trees[age], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr

    def schema(self, name: str) -> int:
        """
        The number of the newest migration in a service's database.
        """
        query = "SELECT max(number) FROM schema_migrations"
        return int(self._data.postgres.sql(query, self._data.databases[name]))

    def start_services(self, age: str) -> None:
        """
        Start the services of a release, and wait until the gateway uses both releases.
        """
        self._supervisor.start(self._parts(age))
        deadline = time.monotonic() + 60
        while True:
            try:
                return self._check_healthy(2)
            except RuntimeError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def terminate(self, name: str, age: str) -> None:
        """
        End a service of a release with SIGTERM, as a rollout does.
        """
        self._supervisor.kill(f"{age}-{name}", 15)

    def _parts(self, age: str) -> list[Part]:
        return [self._part(name, age) for name in self._release.services]

    def _part(self, name: str, age: str) -> Part:
        port, _ = self._ports[age, name]
        return Part(
            name=f"{age}-{name}",
            argv=[sys.executable, "-m", f"services.{name}"],
            ready=lambda: suite.serving(f"127.0.0.1:{port}", HEALTH[name]),
            environment=self._environment(age) | self._settings(name, age),
            folder=self._trees[age],
            bare=True,
        )

    def _both(self, name: str) -> list[tuple[str, int]]:
        if name not in self._release.services:
            return [_UNUSED]
        return [("127.0.0.1", self._ports[age, name][0]) for age in ("old", "new")]

    def _check_healthy(self, count: int) -> None:
        url = f"http://127.0.0.1:{self._operations}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
        for name in self._release.services:
            if f'envoy_cluster_membership_healthy{{envoy_cluster_name="{name}"}} {count}\n' not in page:
                raise RuntimeError(f"the gateway does not have {count} healthy instances of {name}")

    def _environment(self, age: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self._trees[age])}

    def _settings(self, name: str, age: str) -> dict[str, str]:
        port, metrics = self._ports[age, name]
        s3 = self._data.s3
        cdn = {"MODELYARD_CDN_TARGET": f"127.0.0.1:{self._ports[age, 'cdn'][0]}"}
        own: dict[str, dict[str, str]] = {
            "registry": {"MODELYARD_DATABASE_URL": self._database_url("registry"), **cdn},
            "cdn": {
                "MODELYARD_DATABASE_URL": self._database_url("cdn"),
                "MODELYARD_S3_ENDPOINT": s3.endpoint,
                "MODELYARD_S3_BUCKET": BUCKET,
                "MODELYARD_S3_ACCESS_KEY_FILE": str(s3.access_key_file),
                "MODELYARD_S3_SECRET_KEY_FILE": str(s3.secret_key_file),
            },
            "cache": {
                "MODELYARD_REGISTRY_TARGET": f"127.0.0.1:{self._ports[age, 'registry'][0]}",
                "MODELYARD_VALKEY_URL": self._data.valkey.url,
                **cdn,
            },
        }
        common = {
            "MODELYARD_LISTEN": f"127.0.0.1:{port}",
            "MODELYARD_METRICS": f"127.0.0.1:{metrics}",
            # See releases.toml.
            "MODELYARD_DRAIN_DELAY_SECONDS": "2",
        }
        return {**common, "MODELYARD_HOST": "envoy", **own[name]}

    def _database_url(self, name: str) -> str:
        return self._data.postgres.url(self._data.databases[name], SERVICE_ROLE)
