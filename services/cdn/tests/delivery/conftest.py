"""
A migrated database, a bucket, and a delivery service on them.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

from embedded.postgres import owner
from embedded.s3 import REGION, S3
from services.cdn.store.objects.s3 import S3Settings
from services.cdn.tests.delivery.yard import Delivery, Place, running

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture(scope="session")
def new_place(new_assets_database: Callable[[], str], s3: S3, s3_client: S3Client) -> Callable[[], Place]:
    """
    Creates a migrated database and an empty bucket.
    """

    def make() -> Place:
        url = new_assets_database()
        bucket = f"delivery-{uuid.uuid4().hex[:12]}"
        s3_client.create_bucket(Bucket=bucket)
        settings = S3Settings(
            bucket=bucket,
            region=REGION,
            endpoint=s3.endpoint,
            access_key=s3.access_key_file.read_text().strip(),
            secret_key=s3.secret_key_file.read_text().strip(),
        )
        return Place(url, owner(url), s3_client, settings)

    return make


@pytest.fixture(scope="module")
def place(new_place: Callable[[], Place]) -> Place:
    """
    A database and a bucket shared by the tests of a module.
    """
    return new_place()


@pytest.fixture(scope="module")
async def delivery(place: Place) -> AsyncIterator[Delivery]:
    """
    A delivery service without CloudFront.
    """
    async with running(place) as found:
        yield found
