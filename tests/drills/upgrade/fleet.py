"""
Two releases of the services on the same databases, the same Valkey and the same bucket, behind one gateway.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from embedded import suite
from embedded.parts import Part, free_port, socket_file
from embedded.postgres import ASSETS_DATABASE, DATABASE, SERVICE_ROLE, Postgres
from embedded.s3 import BUCKET, REGION, S3
from embedded.supervisor import Supervisor
from embedded.testing import NOT_DURABLE
from embedded.valkey import Valkey
from gateway.bucket import Bucket
from gateway.render import Addresses

ROOT = Path(__file__).resolve().parents[3]
HEALTH = {
    "registry": "modelyard.registry.v1.ModelService",
    "cdn": "modelyard.cdn.v1.AssetService",
    "cache": "modelyard.cache.v1.CacheAdminService",
}
_DATABASES = {"registry": DATABASE, "cdn": ASSETS_DATABASE}
_NOBODY = ("127.0.0.1", 1)


class NoHistoryError(Exception):
    """
    The release's commit is not in this clone.
    """


@dataclass(frozen=True, slots=True)
class Release:
    """
    What is upgraded from.

    Args:
        name: for people.
        commit: where its source is.
        services: that it had, as they are now.
        without: kinds of calls that it did not have.
        retried: reasons of ABORTED that a write may end with beside it, and is repeated on.
    """

    name: str
    commit: str
    services: tuple[str, ...]
    without: tuple[str, ...]
    retried: tuple[str, ...]

    def unpack(self, folder: Path) -> None:
        """
        Raises:
            NoHistoryError: see there.
        """
        command = ["git", "-C", str(ROOT), "archive", self.commit, "services", "modelyard"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.returncode:
            raise NoHistoryError(f"{self.commit} is not in this clone: `git fetch --unshallow` brings it")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
            files.extractall(folder, filter="data")


def releases() -> list[Release]:
    """
    Those of releases.toml, the newest first.
    """
    found = tomllib.loads(Path(__file__).with_name("releases.toml").read_text(encoding="utf-8"))["release"]
    return [
        Release(each["name"], each["commit"], *(tuple(each.get(key, ())) for key in ("services", "without", "retried")))
        for each in found
    ]


class Fleet:
    """
    Args:
        release: what is upgraded from.
        state: a folder that every user may enter.
    """

    def __init__(self, release: Release, state: Path) -> None:
        self._release, self._state = release, state
        self._supervisor = Supervisor(state / "log")
        self._trees = {"old": state / "old", "new": ROOT}
        release.unpack(self._trees["old"])
        self._postgres, self._valkey, self._s3 = Postgres.inside(state), Valkey(free_port()), S3(state, free_port())
        self._ports = {(age, name): (free_port(), free_port()) for age in ("old", "new") for name in HEALTH}
        self._operations = free_port()
        self.gateway = f"127.0.0.1:{free_port()}"

    def start(self) -> None:
        """
        The data services, the old release on its own schema, and the gateway before both releases.
        """
        self._supervisor.start([self._postgres.part(**NOT_DURABLE), self._valkey.part(), self._s3.part()])
        for name in self._release.services:
            if name in _DATABASES:
                self.migrate(name, "old")
        self.begin("old")
        host, _, port = self.gateway.rpartition(":")
        addresses = Addresses(
            listen=(host, int(port)),
            admin=socket_file(self._state, "admin.sock"),
            operations=("127.0.0.1", self._operations),
            bucket=Bucket(BUCKET, REGION, self._s3.endpoint),
            registry=self._both("registry"),
            cdn=self._both("cdn"),
            cache=self._both("cache"),
        )

        def ready() -> None:
            self._sees(1)

        part = suite.gateway(self._state, addresses, ready, self._s3.environment)
        self._supervisor.start([replace(part, needs=())])

    def stop(self) -> None:
        """
        End everything; the data go with the run.
        """
        self._supervisor.kill("s3")
        self._supervisor.stop()

    def migrate(self, name: str, age: str) -> None:
        """
        Bring a database to the schema of a release.
        """
        environment = self._environment(age) | {"MODELYARD_DATABASE_URL": self._postgres.url(_DATABASES[name])}
        command = [sys.executable, "-m", f"services.{name}.migrate"]
        done = subprocess.run(
            command, env=environment, cwd=self._trees[age], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr

    def schema(self, name: str) -> int:
        """
        The number of the newest migration of a database.
        """
        return int(self._postgres.sql("SELECT max(number) FROM schema_migrations", _DATABASES[name]))

    def begin(self, age: str) -> None:
        """
        Start the services of a release, and wait until they are ready.
        """
        self._supervisor.start([self._part(name, age) for name in self._release.services])

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

    def end(self, name: str, age: str) -> None:
        """
        End a service of a release as a rollout does.
        """
        self._supervisor.kill(f"{age}-{name}", 15)

    def wait_for_both(self) -> None:
        """
        Wait until the gateway sends calls to both releases.
        """
        ends = time.monotonic() + 60
        while True:
            try:
                return self._sees(2)
            except RuntimeError:
                assert time.monotonic() < ends
                time.sleep(0.1)

    def _both(self, name: str) -> list[tuple[str, int]]:
        if name not in self._release.services:
            return [_NOBODY]
        return [("127.0.0.1", self._ports[age, name][0]) for age in ("old", "new")]

    def _sees(self, count: int) -> None:
        url = f"http://127.0.0.1:{self._operations}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
        for name in self._release.services:
            if f'envoy_cluster_membership_healthy{{envoy_cluster_name="{name}"}} {count}\n' not in page:
                raise RuntimeError(f"the gateway does not see {count} of {name}")

    def _environment(self, age: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self._trees[age]), "PYTHONDONTWRITEBYTECODE": "1"}

    def _settings(self, name: str, age: str) -> dict[str, str]:
        port, metrics = self._ports[age, name]
        cdn = {"MODELYARD_CDN_TARGET": f"127.0.0.1:{self._ports[age, 'cdn'][0]}"}
        own: dict[str, dict[str, str]] = {
            "registry": {"MODELYARD_DATABASE_URL": self._postgres.url(user=SERVICE_ROLE), **cdn},
            "cdn": {
                "MODELYARD_DATABASE_URL": self._postgres.url(ASSETS_DATABASE, SERVICE_ROLE),
                "MODELYARD_S3_ENDPOINT": self._s3.endpoint,
                "MODELYARD_S3_BUCKET": BUCKET,
                "MODELYARD_S3_ACCESS_KEY_FILE": str(self._s3.access_key_file),
                "MODELYARD_S3_SECRET_KEY_FILE": str(self._s3.secret_key_file),
            },
            "cache": {
                "MODELYARD_REGISTRY_TARGET": f"127.0.0.1:{self._ports[age, 'registry'][0]}",
                "MODELYARD_VALKEY_URL": self._valkey.url,
                **cdn,
            },
        }
        common = {"MODELYARD_LISTEN": f"127.0.0.1:{port}", "MODELYARD_METRICS": f"127.0.0.1:{metrics}"}
        return {**common, "MODELYARD_HOST": "envoy", **own[name]}
