"""
Client of CloudFront's API: invalidations, with translated errors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.cdn.store.objects.s3 import session

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient

T = TypeVar("T")
_log = logging.getLogger(__name__)

# Transient errors common to AWS's services ("Common Error Types" in the API reference), and CloudFront's own for more
# than 3,000 paths or 15 wildcards in progress.
_FOR_NOW = {
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyInvalidationsInProgress",
    "TooManyRequestsException",
}


@dataclass(frozen=True, slots=True)
class CloudFrontSettings:
    """
    The CloudFront distribution.

    Args:
        distribution: its id.
        endpoint: of CloudFront's API; None means AWS.
        access_key, secret_key: None means AWS's default credential chain.
    """

    distribution: str
    endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


class CloudFrontUnavailable(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    CloudFront is unavailable or throttles: the same call may succeed later.
    """


class CloudFrontRejected(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    CloudFront rejected the call: a retry would fail, too.
    """


class CloudFront:
    """
    Invalidates paths of a distribution.
    """

    def __init__(self, settings: CloudFrontSettings) -> None:
        self._distribution = settings.distribution
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="cloudfront")
        self._client = _client(settings)

    async def invalidate(self, reference: str, paths: Sequence[str]) -> str:
        """
        Create an invalidation, or find the one with the same *reference* and *paths*.

        Returns:
            Its id at CloudFront.

        Raises:
            CloudFrontUnavailable, CloudFrontRejected: as their docstrings say.
        """
        create = partial(
            self._client.create_invalidation,
            DistributionId=self._distribution,
            InvalidationBatch={
                "Paths": {"Quantity": len(paths), "Items": paths},
                "CallerReference": reference,
            },
        )
        return (await self._run(create))["Invalidation"]["Id"]

    async def is_done(self, remote: str) -> bool:
        """
        Whether an invalidation is complete.

        Raises:
            CloudFrontUnavailable, CloudFrontRejected: as their docstrings say.
        """
        get = partial(self._client.get_invalidation, DistributionId=self._distribution, Id=remote)
        return (await self._run(get))["Invalidation"]["Status"].lower() == "completed"

    async def close(self) -> None:
        """
        Wait for calls in progress, then stop the threads.
        """
        await asyncio.to_thread(self._threads.shutdown)
        self._client.close()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ClientError as error:
            raise _translate(error) from error
        except (BotoCoreError, OSError) as error:
            raise CloudFrontUnavailable(f"CloudFront cannot be reached ({type(error).__name__})") from error


def _client(settings: CloudFrontSettings) -> CloudFrontClient:
    client: CloudFrontClient = session().client(
        "cloudfront",
        endpoint_url=settings.endpoint,
        region_name="us-east-1",  # the region of this global service
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        # No retries here: the invalidator retries, and records its attempts.
        config=Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1}),
    )
    return client


def _translate(error: ClientError) -> Exception:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    code = error.response["Error"].get("Code", "") or str(status)
    if status >= 500 or status == 429 or code in _FOR_NOW:
        return CloudFrontUnavailable(f"CloudFront says {code}")
    # Its message may name roles and accounts: for the log, not for clients.
    _log.error("CloudFront rejected an invalidation: %s", error)
    return CloudFrontRejected(f"CloudFront refuses it: {code}")
