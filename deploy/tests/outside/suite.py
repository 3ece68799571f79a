"""
An overlay run outside of containers, on loopback: each pod's own arguments, settings, secrets and probes, as they are
in what Kustomize builds. Only addresses and the folders of secrets are led to where they are here.

In the cluster's place are a PostgreSQL with a streaming replica, a Valkey Cluster, an S3 server, an authority, and an
issuer of tokens. (This PostgreSQL speaks no TLS, so that sslmode is taken out of the addresses.)
"""

from __future__ import annotations

import http.server
import re
import secrets
import signal
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deploy.checks.suite import Object, Pod, Suite, file_mounts
from deploy.tests.outside import image
from embedded.access import OWN_SCOPES
from embedded.authority import Authority
from embedded.parts import Part, free_port
from embedded.postgres import ASSETS_DATABASE, DATABASE, SERVICE_ROLE, Postgres, binary
from embedded.s3 import S3
from embedded.supervisor import Supervisor
from embedded.valkey_cluster import ValkeyCluster
from modelyard.contracts import public_scopes
from modelyard.tokens import key_set, make_key, mint

OWNER = "modelyard"
_MOUNTS = "/etc/modelyard"
_ALL_SCOPES = tuple(sorted(set(public_scopes().values())))
_NO_TLS_HERE = re.compile(r"\?sslmode=verify-full&sslrootcert=[^,\s]*")


@dataclass(frozen=True, slots=True)
class Instance:
    """
    A pod that serves.

    Args:
        name: registry, registry-2, …
        ports: of its container, by name, on loopback.
    """

    name: str
    ports: Mapping[str, int]


class Outside:
    """
    Args:
        suite: the overlay.
        state: a folder that every user may enter.
        settings: in place of the overlay's, by name; also the gateway's options.
        valkey: the Valkey Cluster of another suite, to share it; None starts one.
        replicas: the number of instances of each Deployment.
    """

    def __init__(
        self,
        suite: Suite,
        state: Path,
        settings: Mapping[str, str] | None = None,
        valkey: ValkeyCluster | None = None,
        replicas: int = 2,
    ) -> None:
        self._suite, self._state, self._settings = suite, state, settings or {}
        self._supervisor = Supervisor(state / "log")
        self._parts: dict[str, Part] = {}
        self._passwords = {name: secrets.token_hex(16) for name in ("owner", "service", "valkey")}
        self._own_valkey = valkey is None
        self._replicas = replicas
        self._issuer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Keys, directory=str(state)))
        self.image = image.make(state / "image")
        self.authority = Authority(state / "tls")
        self.postgres = Postgres.inside(state / "primary", free_port())
        self.replica_port = free_port()
        self.valkey = valkey or ValkeyCluster(state, password=self._passwords["valkey"])
        self.s3 = S3(state, free_port())
        self.key, self.token = state / "key.pem", state / "token"
        self.instances = {
            pod.name: [_instance(pod, number) for number in range(1, replicas + 1)]
            for pod in suite.pods
            if pod.kind == "Deployment"
        }

    @property
    def gateways(self) -> list[str]:
        """
        host:port of each.
        """
        return [f"127.0.0.1:{each.ports['http']}" for each in self.instances["gateway"]]

    def start(self, restore: Callable[[], None] = lambda: None) -> None:
        """
        Start everything, in the order in which Kubernetes would let it serve.

        Args:
            restore: called when the data services are there, and nothing else.
        """
        self._issue()
        self._start_data()
        restore()
        by_kind = {kind: [pod for pod in self._suite.pods if pod.kind == kind] for kind in ("Job", "Deployment")}
        # Whoever waits for a schema starts before the Job that makes it.
        waiting = [self._waits(pod) for pod in by_kind["Deployment"] if "initContainers" in pod.spec]
        jobs = [self._job(pod) for pod in by_kind["Job"] if pod.name.endswith("-migration")]
        servers = [self._server(pod, each) for pod in by_kind["Deployment"] for each in self.instances[pod.name]]
        self._parts |= {part.name: part for part in servers}
        self._supervisor.start([*waiting, *jobs, *servers])

    def job(self, name: str, *more: str) -> None:
        """
        Run a Job to its end, with further arguments.
        """
        part = self._job(next(pod for pod in self._suite.pods if str(pod) == f"Job {name}"))
        self._supervisor.start([replace(part, argv=[*part.argv, *more])])

    def stop(self) -> None:
        """
        Stop everything, and wait for nothing to end in good order: the data are deleted with the run, and what an end
        in good order is has tests of its own.
        """
        for instance in (each for group in self.instances.values() for each in group):
            with suppress(KeyError):
                self._supervisor.kill(instance.name)
        for name, number in (
            ("s3", signal.SIGKILL),
            ("postgresql-replica", signal.SIGQUIT),
            ("postgresql", signal.SIGQUIT),
        ):
            with suppress(KeyError):
                self._supervisor.kill(name, number)
        self._supervisor.stop()
        self._issuer.server_close()

    def roll(self, name: str) -> None:
        """
        Replace an instance as a rollout does: end it, start it, wait until it is ready.
        """
        self.end(name)
        self._supervisor.start([replace(self._parts[name], needs=())])

    def kill(self, name: str) -> None:
        """
        Kill an instance with -9.
        """
        self._supervisor.kill(name)

    def gone(self, name: str) -> None:
        """
        Wait for the end of an instance that was told to end.

        Raises:
            AssertionError: it has not ended well.
        """
        status = self._supervisor.wait(name)
        assert status == 0, f"{name} ended with {status}: {self.log(name)[-2000:]}"

    def end(self, name: str) -> None:
        """
        End an instance as Kubernetes does, and wait for its end.
        """
        self._supervisor.kill(name, self._parts[name].stop_signal)

    def revive(self, name: str) -> None:
        """
        Start an instance that has ended.
        """
        self._supervisor.start([replace(self._parts[name], needs=())])

    def pid(self, name: str) -> int:
        """
        The process id of an instance.
        """
        return self._supervisor.pid(name)

    def page(self, name: str, path: str) -> str:
        """
        A page beside an instance's metrics.
        """
        with urllib.request.urlopen(f"{self._pages(name)}{path}", timeout=10) as answer:  # noqa: S310 - our own page
            text: str = answer.read().decode()
        return text

    def log(self, name: str) -> str:
        """
        What an instance has written.
        """
        return (self._state / "log" / f"{name}.log").read_text()

    def operators(self) -> dict[str, str]:
        """
        The variables of backup.sh and restore.sh, and a path with PostgreSQL's programs.
        """
        file = self._state / "pgpass"
        file.write_text(f"127.0.0.1:{self.postgres.port}:*:{OWNER}:{self._passwords['owner']}\n")
        file.chmod(0o600)
        place = f"host=127.0.0.1 port={self.postgres.port} user={OWNER} dbname="
        return {
            "PATH": f"{binary('pg_dump').parent}:/usr/bin:/bin",
            "PGPASSFILE": str(file),
            "REGISTRY_DATABASE": f"{place}{DATABASE}",
            "CDN_DATABASE": f"{place}{ASSETS_DATABASE}",
        }

    def _issue(self) -> None:
        make_key(self.key)
        self.authority.issue("client")
        (self._state / "jwks.json").write_text(key_set(self.key))
        self.token.write_text(mint(self.key, "drill", _ALL_SCOPES, 3600))
        self.token.chmod(0o600)
        threading.Thread(target=self._issuer.serve_forever, daemon=True).start()

    def _start_data(self) -> None:
        hba = self._state / "pg_hba.conf"
        # TCP asks for passwords, as in the cluster; the socket is for this program and for the replica.
        hba.write_text("local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        hba.chmod(0o644)
        tcp = {"listen_addresses": "127.0.0.1", "hba_file": str(hba), "max_connections": "300"}
        hasty = {"fsync": "off"}
        valkey: Callable[[], None] = (
            (lambda: self.valkey.start(self._supervisor)) if self._own_valkey else (lambda: None)
        )
        self._supervisor.start([self.postgres.part(**tcp, **hasty), self.s3.part()])
        for role, password in ((OWNER, "owner"), (SERVICE_ROLE, "service")):
            self.postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{self._passwords[password]}'")
        for database in (DATABASE, ASSETS_DATABASE):
            self.postgres.sql(f"ALTER DATABASE {database} OWNER TO {OWNER}")
        replica = self.postgres.replicate(self._state / "replica", self.replica_port)
        self._supervisor.start([replace(replica.part(**tcp, **hasty), name="postgresql-replica")])
        valkey()

    def _waits(self, pod: Pod) -> Part:
        (container,) = pod.spec["initContainers"]
        return self._part(f"{pod.name}-schema", pod, container, {}, ready=None)

    def _job(self, pod: Pod) -> Part:
        return self._part(pod.name, pod, pod.main[0], {}, ready=None)

    def _server(self, pod: Pod, instance: Instance) -> Part:
        ports = instance.ports
        own = {
            "MODELYARD_LISTEN": f"127.0.0.1:{ports.get('grpc') or ports.get('http', 0)}",
            "MODELYARD_METRICS": f"127.0.0.1:{ports.get('metrics', 0)}",
            "MODELYARD_RUN": str(self._state / instance.name),
        }
        path = pod.main[0]["readinessProbe"]["httpGet"]["path"]

        def ready() -> None:
            self.page(instance.name, path)
            if pod.name == "gateway":
                # It is ready as soon as it could serve; a client of a suite that has just begun waits for the others.
                page = self.page(instance.name, "/metrics")
                for name in ("registry", "cache", "cdn", "doors"):
                    healthy = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{name}"}} {self._replicas}'
                    if healthy not in page:
                        raise RuntimeError(f"{instance.name} does not see all of {name}")

        part = self._part(instance.name, pod, pod.main[0], own, ready)
        more = _listeners(part.argv, ports, self._settings) if pod.name == "gateway" else part.argv
        needs = [f"{pod.name}-schema"] if "initContainers" in pod.spec else []
        return replace(part, argv=more, needs=needs, patience=float(pod.spec["terminationGracePeriodSeconds"]))

    def _part(
        self, name: str, pod: Pod, container: Object, own: Mapping[str, str], ready: Callable[[], None] | None
    ) -> Part:
        folder = self._mount(pod, container, self._state / "pods" / name)
        given = {**self.image.environment, **self._suite.environment(container), **self._settings}
        environment = {key: self._here(value, folder) for key, value in given.items() if not key.startswith("--")}
        arguments = [self._here(each, folder) for each in self._suite.arguments(container)]
        return Part(
            name=name,
            argv=[*self.image.entrypoint, *arguments],
            ready=ready,
            environment={**environment, **own, "TMPDIR": str(self._state)},
            folder=self.image.app,
            bare=True,
        )

    def _here(self, text: str, folder: Path) -> str:
        text = _NO_TLS_HERE.sub("", text).replace(_MOUNTS, f"{folder}{_MOUNTS}")
        for name, instances in self.instances.items():
            if "metrics" in instances[0].ports:
                places = ",".join(f"127.0.0.1:{each.ports.get('grpc') or each.ports['http']}" for each in instances)
                text = re.sub(rf"(?<![\w.-]){name}:50051\b", places, text)
        elsewhere = {
            r"\w+-postgresql-rw:5432": self.postgres.port,
            r"\w+-postgresql-ro:5432": self.replica_port,
            "valkey:6379": self.valkey.nodes[0].port,
            "s3:8333": self.s3.port,
            "issuer:8000": self._issuer.server_address[1],
        }
        for pattern, port in elsewhere.items():
            text = re.sub(rf"(?<![\w.-]){pattern}\b", f"127.0.0.1:{port}", text)
        return text

    def _mount(self, pod: Pod, container: Object, folder: Path) -> Path:
        for place, volume in file_mounts(pod, container):
            if "secret" not in volume:
                continue
            source = volume["secret"]
            values = self._secret(source["secretName"])
            items = source.get("items") or [{"key": key, "path": key} for key in values]
            mounted = Path(f"{folder}{place}")
            mounted.mkdir(parents=True, exist_ok=True)
            for item in items:
                file = mounted / item["path"]
                file.write_bytes(values[item["key"]])
                file.chmod(0o600)
        return folder

    def _secret(self, name: str) -> dict[str, bytes]:
        if name.endswith(("-certificate", "-public")):
            files = self.authority.issue(name.removesuffix("-certificate"))
            pairs = {"tls.crt": files.certificate, "tls.key": files.key, "ca.crt": files.authority}
            return {key: path.read_bytes() for key, path in pairs.items()}
        if name.endswith("-postgresql-ca"):
            return {"ca.crt": self.authority.certificate.read_bytes()}
        if name.endswith("-database-owner"):
            return {"password": self._passwords["owner"].encode()}
        if name.endswith("-database"):
            return {"password": self._passwords["service"].encode()}
        if name == "cache-valkey":
            return {"password": self.valkey.password.encode()}
        if name in ("registry-token", "cache-token", "cdn-token"):
            service = name.removesuffix("-token")
            return {"token": mint(self.key, f"modelyard-{service}", OWN_SCOPES[service], 86400).encode()}
        assert name == "bucket", f"nobody here makes the Secret {name}"
        access, secret = (path.read_text().strip() for path in (self.s3.access_key_file, self.s3.secret_key_file))
        credentials = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        return {"access-key": access.encode(), "secret-key": secret.encode(), "credentials": credentials.encode()}

    def _pages(self, name: str) -> str:
        instance = next(each for group in self.instances.values() for each in group if each.name == name)
        return f"http://127.0.0.1:{instance.ports.get('metrics') or instance.ports['operations']}"


class _Keys(http.server.SimpleHTTPRequestHandler):
    """
    Serves the issuer's keys, and says nothing.
    """

    def do_GET(self) -> None:
        """
        The one file that is public.
        """
        if self.path == "/jwks.json":
            super().do_GET()
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """
        Nothing.
        """


def _instance(pod: Pod, number: int) -> Instance:
    return Instance(pod.name if number == 1 else f"{pod.name}-{number}", {port.name: free_port() for port in pod.ports})


def _listeners(argv: Sequence[str], ports: Mapping[str, int], settings: Mapping[str, str]) -> list[str]:
    given = {
        "--listen": f"127.0.0.1:{ports['http']}",
        "--operations": f"127.0.0.1:{ports['operations']}",
        **{name: value for name, value in settings.items() if name.startswith("--")},
    }
    return [f"{name}={given[name]}" if (name := each.partition("=")[0]) in given else each for each in argv]
