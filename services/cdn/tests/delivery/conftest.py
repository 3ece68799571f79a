"""
A migrated database, a bucket, and a delivery service on them.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

from embedded.postgres import SERVICE_ROLE, Postgres
from embedded.s3 import REGION, S3
from embedded.shared import Servers
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.tests.delivery.yard import Delivery, Place, running

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def new_place(
    run_servers: Servers, postgres: Postgres, s3: S3, s3_client: S3Client, worker: str
) -> Callable[[], Place]:
    """
    Makes a migrated database and an empty bucket.
    """
    template = run_servers.template("cdn")

    def make() -> Place:
        name = f"delivery_{worker}_{next(_numbers)}"
        postgres.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        bucket = f"delivery-{uuid.uuid4().hex[:12]}"
        s3_client.create_bucket(Bucket=bucket)
        settings = S3Settings(
            bucket=bucket,
            region=REGION,
            endpoint=s3.endpoint,
            access_key=s3.access_key_file.read_text().strip(),
            secret_key=s3.secret_key_file.read_text().strip(),
        )
        return Place(postgres.url(name, SERVICE_ROLE), postgres.url(name), s3_client, settings)

    return make


@pytest.fixture(scope="module")
def place(new_place: Callable[[], Place]) -> Place:
    """
    A database and a bucket that the tests of a module share.
    """
    return new_place()


@pytest.fixture(scope="module")
async def delivery(place: Place) -> AsyncIterator[Delivery]:
    """
    A delivery service without CloudFront.
    """
    async with running(place) as found:
        yield found
