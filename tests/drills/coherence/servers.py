"""
What is behind the caches: PostgreSQL with a replica, Valkey, S3, two registries and the asset service.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from embedded import suite
from embedded.parts import Part, free_port
from embedded.postgres import ASSETS_DATABASE, SERVICE_ROLE, Postgres
from embedded.s3 import BUCKET, REGION, S3
from embedded.supervisor import Supervisor
from embedded.testing import NOT_DURABLE
from embedded.valkey import Valkey

# How far behind a replica may be and answer: less than the bound of the caches.
LAG = 1.0


@dataclass
class Servers:
    """
    All of them.

    Args:
        first: the port of the registry that is written to, asked for the truth, and left in peace.
        second: the part and the port of the one that is killed, and reads from the replica.
    """

    supervisor: Supervisor
    postgres: Postgres
    replica: Postgres
    valkey: Valkey
    first: int
    second: tuple[Part, int]
    cdn: int

    @classmethod
    def start(cls, state: Path, supervisor: Supervisor) -> Servers:
        """
        Start them.
        """
        postgres, valkey, s3 = Postgres.inside(state), Valkey(free_port()), S3(state, free_port())
        supervisor.start(
            [
                postgres.part(**NOT_DURABLE),
                valkey.part(),
                s3.part(),
                suite.migration("registry", postgres.url()),
                suite.migration("cdn", postgres.url(ASSETS_DATABASE)),
            ]
        )
        replica = postgres.replicate(state / "replica", port=5433)
        bytes_ = {
            "MODELYARD_DATABASE_URL": postgres.url(ASSETS_DATABASE, SERVICE_ROLE),
            "MODELYARD_S3_ENDPOINT": s3.endpoint,
            "MODELYARD_S3_BUCKET": BUCKET,
            "MODELYARD_S3_REGION": REGION,
            "MODELYARD_S3_ACCESS_KEY_FILE": str(s3.access_key_file),
            "MODELYARD_S3_SECRET_KEY_FILE": str(s3.secret_key_file),
            # What is deleted is stored again at once.
            "MODELYARD_COLLECT_EVERY_SECONDS": "0",
        }
        cdn = _service("cdn", "modelyard.cdn.v1.AssetService", bytes_)
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

    def drop(self) -> None:
        """
        End them at once: their data goes with the run, and nobody waits for them to write it down.
        """
        for name in ("registry", "registry-2", "cdn", "s3"):
            self.supervisor.kill(name)
        for name in ("replica", "postgresql"):
            self.supervisor.kill(name, signal.SIGQUIT)


def _service(name: str, health: str, environment: Mapping[str, str]) -> suite.Service:
    return suite.Service(
        name=name,
        health=health,
        needs=(),
        environment={
            **environment,
            "MODELYARD_LOG_LEVEL": "error",
            # A busy machine is no reason for the truth not to be told.
            "MODELYARD_DATABASE_POOL_WAIT_SECONDS": "30",
            "MODELYARD_SEARCH_SECONDS": "30",
        },
        workers=1,
        host="envoy",
        port=free_port(),
        metrics_port=free_port(),
    )
