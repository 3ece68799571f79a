"""
The upstreams of the caches: PostgreSQL with a replica, Valkey, S3, two registries and the asset service.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from embedded import suite
from embedded.parts import Part, free_port
from embedded.postgres import ASSETS_DATABASE, DATABASE, SERVICE_ROLE, Postgres
from embedded.s3 import BUCKET, REGION, S3
from embedded.supervisor import Supervisor
from embedded.testing import NOT_DURABLE
from embedded.valkey import Valkey
from services.ledger.migrate import grant, migrate, migrations

_SERVICES = Path(__file__).resolve().parents[3] / "services"
# The highest lag in seconds at which a replica serves reads: less than the bound of the caches.
LAG = 1.0


@dataclass
class Servers:
    """
    All of them.

    Args:
        first: the port of the registry that writes and reference reads go to; no fault is injected into it.
        second: the part and the port of the registry that is killed and reads from the replica.
    """

    supervisor: Supervisor
    postgres: Postgres
    replica: Postgres
    valkey: Valkey
    first: int
    second: tuple[Part, int]
    cdn: int

    @classmethod
    def start(cls, state: Path, supervisor: Supervisor, s3: S3) -> Servers:
        """
        Start them.

        Args:
            state: a folder that every user may enter.
            s3: a running S3 server.
        """
        postgres, valkey = Postgres.inside(state), Valkey(free_port())
        supervisor.start([postgres.part(**NOT_DURABLE), valkey.part()])
        for service, name in (("registry", DATABASE), ("cdn", ASSETS_DATABASE)):
            asyncio.run(_migrate(service, postgres.url(name)))
        replica = postgres.replicate(state / "replica", port=5433)
        assets = {
            "MODELYARD_DATABASE_URL": postgres.url(ASSETS_DATABASE, SERVICE_ROLE),
            "MODELYARD_S3_ENDPOINT": s3.endpoint,
            "MODELYARD_S3_BUCKET": BUCKET,
            "MODELYARD_S3_REGION": REGION,
            "MODELYARD_S3_ACCESS_KEY_FILE": str(s3.access_key_file),
            "MODELYARD_S3_SECRET_KEY_FILE": str(s3.secret_key_file),
            # Deleted assets are uploaded again at once.
            "MODELYARD_COLLECT_EVERY_SECONDS": "0",
        }
        cdn = _service("cdn", "modelyard.cdn.v1.AssetService", assets)
        database = {
            "MODELYARD_DATABASE_URL": postgres.url(user=SERVICE_ROLE),
            "MODELYARD_CDN_TARGET": f"127.0.0.1:{cdn.port}",
        }
        replicas = {
            "MODELYARD_DATABASE_REPLICA_URLS": replica.url(user=SERVICE_ROLE),
            "MODELYARD_DATABASE_REPLICA_LAG_SECONDS": str(LAG),
        }
        first = _service("registry", "modelyard.registry.v1.ModelService", database)
        second = _service("registry", "modelyard.registry.v1.ModelService", {**database, **replicas})
        again = replace(second.part(), name="registry-2")
        supervisor.start([replace(replica.part(), name="replica"), cdn.part(), first.part(), again])
        return cls(supervisor, postgres, replica, valkey, first.port, (again, second.port), cdn.port)

    def kill(self) -> None:
        """
        Kill all of them: the data is discarded.
        """
        # A fault may have been interrupted while a process was down.
        running = self.supervisor.pids()
        for name in {"registry", "registry-2", "cdn"} & running.keys():
            self.supervisor.kill(name)
        for name in {"replica", "postgresql"} & running.keys():
            self.supervisor.kill(name, signal.SIGQUIT)


async def _migrate(service: str, url: str) -> None:
    folder = _SERVICES / service / "migrations"
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection, migrations(folder))
        await grant(connection, folder, SERVICE_ROLE)
    finally:
        await connection.close()


def _service(name: str, health: str, environment: Mapping[str, str]) -> suite.Service:
    return suite.Service(
        name=name,
        health=health,
        needs=(),
        environment={
            **environment,
            "MODELYARD_LOG_LEVEL": "error",
            # Reference reads must not time out on a loaded machine.
            "MODELYARD_DATABASE_POOL_WAIT_SECONDS": "30",
            "MODELYARD_SEARCH_SECONDS": "30",
        },
        workers=1,
        host="envoy",
        port=free_port(),
        metrics_port=free_port(),
    )
