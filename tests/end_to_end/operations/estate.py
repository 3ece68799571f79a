"""
A suite as in production: passwords, a Valkey Cluster, two instances of each service and of the gateway.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from embedded.parts import secret_file
from embedded.postgres import SERVICE_ROLE
from embedded.stack import Stack, StackSettings
from embedded.supervisor import Supervisor
from embedded.valkey_cluster import ValkeyCluster

DOCS = Path(__file__).resolve().parents[3] / "docs" / "operations"
#: Clients that have lost a gateway reconnect after one second and then after 1.6: docs/rolling.md.
CLIENT_SECONDS = 3.0
FIRST = "first-password"


class Estate:
    """
    Args:
        state: a folder that every user may enter.

    Attributes:
        stack: the suite.
        cluster: the cache's Valkey nodes.
        supervisor: of the nodes.
        valkey_password: the password that the nodes currently accept.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.supervisor = Supervisor(state / "valkey-log")
        self.cluster = ValkeyCluster(state, password=FIRST)
        self.valkey_password = FIRST
        self.valkey_password_file = self.secret("valkey", FIRST)
        self.database_password_file = self.secret("database", FIRST)
        environment = {
            "MODELYARD_VALKEY_URL": self.cluster.url,
            "MODELYARD_VALKEY_CLUSTER": "true",
            "MODELYARD_VALKEY_PASSWORD_FILE": self.valkey_password_file,
            "MODELYARD_DATABASE_PASSWORD_FILE": self.database_password_file,
            # Longer than the gateway's health check interval, as deployed: docs/rolling.md.
            "MODELYARD_DRAIN_DELAY_SECONDS": "2",
        }
        settings = StackSettings(
            state=state, gateway_port=0, instances=2, gateways=2, drain_seconds=1, environment=environment
        )
        self.stack = Stack(settings)

    def start(self) -> None:
        """
        Start everything.
        """
        self.cluster.start(self.supervisor)
        self.stack.start()
        self.require_passwords()

    def stop(self) -> None:
        """
        Kill everything: the data is discarded.
        """
        # PostgreSQL would leave its shared memory behind after SIGKILL.
        for supervisor in (self.stack._supervisor, self.supervisor):
            for name in supervisor.pids():
                supervisor.kill(name, signal.SIGQUIT if name.startswith("postgresql") else signal.SIGKILL)
            supervisor.stop()
        self.stack.stop()

    def secret(self, name: str, text: str) -> str:
        """
        Write a secret into a file, and return the path.
        """
        path = self.state / "own-secrets" / name
        secret_file(path, lambda: text)
        return str(path)

    @property
    def nodes(self) -> str:
        """
        The addresses of Valkey's nodes, in the form that the pages' commands expect.
        """
        return " ".join(f"127.0.0.1:{node.port}" for node in self.cluster.nodes)

    def require_passwords(self) -> None:
        """
        Make PostgreSQL require passwords of all roles but its owner.
        """
        self.sql(f"ALTER ROLE {SERVICE_ROLE} PASSWORD '{FIRST}'")
        rules = self.stack.postgres.data / "pg_hba.conf"
        required = "local all postgres trust\nlocal replication all trust\nlocal all all scram-sha-256\n"
        rules.write_text(required)
        self.sql("SELECT pg_reload_conf()")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """
        Run a statement on the primary.
        """
        return self.stack.postgres.sql(statement, database)

    def roll(self, **environments: dict[str, str]) -> None:
        """
        Replace both instances of some services with changed settings, the second ones when the first ones are in use
        again (`minReadySeconds` of a Deployment).

        Args:
            environments: the changed settings by service, or "gateway".
        """
        for suffix in ("", "-2"):
            instances = {f"{name}{suffix}": more for name, more in environments.items()}
            self.replace(instances)
            self.settle(CLIENT_SECONDS if "gateway" in environments else 0)

    def settle(self, least: float = 0) -> None:
        """
        Wait until each gateway has checked each instance since this call, and all are healthy.

        Args:
            least: the minimum time in seconds.
        """
        before = self._checks()
        time.sleep(least)
        until(partial(self._checked, before), "not all gateways use all instances")

    def replace(self, instances: Mapping[str, Mapping[str, str]]) -> None:
        """
        Terminate some instances at the same time, and start them again with changed settings.

        Args:
            instances: the changed settings by name of the instance.
        """
        parts = [self.stack._parts[name] for name in instances]
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda part: self.stack._supervisor.kill(part.name, part.stop_signal), parts))
        changed = [replace(each, needs=(), environment={**each.environment, **instances[each.name]}) for each in parts]
        self.stack._parts |= {part.name: part for part in changed}
        self.stack._supervisor.start(changed)

    def _checked(self, before: Sequence[float]) -> bool:
        """
        Whether each gateway has made four health checks of each service since *before*, of both instances in turn, and
        all are healthy.
        """
        enough = all(now >= then + 4 for now, then in zip(self._checks(), before, strict=True))
        return enough and set(self._of_gateways("envoy_cluster_membership_healthy")) == {2.0}

    def _checks(self) -> list[float]:
        return self._of_gateways("envoy_cluster_health_check_success")

    def _of_gateways(self, name: str) -> list[float]:
        found = []
        for metrics in self.stack.gateways_metrics:
            page = _page(metrics)
            services = "|".join(self.stack.services)
            found += re.findall(rf'^{name}{{envoy_cluster_name="(?:{services})"}} (\S+)$', page, re.MULTILINE)
        return [float(each) for each in found]

    def metric(self, service: str, name: str) -> list[float]:
        """
        The values of a metric of all instances of a service that export it.

        Args:
            name: with its labels, as in the exposition format.
        """
        found = []
        for page in self.stack.services[service].metrics:
            found += [float(value) for value in re.findall(rf"^{re.escape(name)} (\S+)$", _page(page), re.MULTILINE)]
        return found


def blocks(page: Path, language: str) -> list[str]:
    """
    The fenced code blocks of a page.
    """
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(page: str, name: str, *, before: str = "", **environment: str) -> str:
    """
    Run the commands of a page: the block of docs/operations whose first line is `# name: description`.

    Args:
        before: shell commands that run first, in the same shell.
        environment: variables of the shell.

    Returns:
        Their output.

    Raises:
        AssertionError: the page has no such block, or the commands fail.
    """
    found = [block for block in blocks(DOCS / page, "sh") if block.startswith(f"# {name}:")]
    assert len(found) == 1, f"{page} has {len(found)} blocks called {name}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{before}\n{found[0]}"],
        env={"PATH": os.environ["PATH"], "TERM": "dumb", **environment},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{found[0]}{done.stdout}{done.stderr}"
    return done.stdout


def until(true: Callable[[], object], what: str, seconds: float = 60) -> None:
    """
    Wait until a condition is true.

    Args:
        what: the message if that takes too long.
    """
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, what
        time.sleep(0.1)


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - on loopback
        text: str = answer.read().decode()
    return text
