"""
S3 clients (boto3) with thread pools, and the translation of S3's errors.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection

from services.cdn.store.objects.traffic import Traffic, outcome
from services.chassis.errors import Internal, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: Seconds after which clients may retry when S3 does not answer.
_RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class S3Settings:
    """
    Location of the bucket, and credentials.

    Args:
        bucket: its name.
        region: AWS region; most S3-compatible servers accept any.
        endpoint: URL of an S3-compatible server; None means AWS.
        access_key, secret_key: None means AWS's default credential chain (environment, profile, instance or pod role).
    """

    bucket: str
    region: str = "us-east-1"
    endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


class NoSuchKey(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    There is no such key or multipart upload (404).
    """


class AlreadyExists(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    The key exists, and the write was conditional (412).
    """


class RangeNotSatisfiable(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    The range begins at or after the end (416).
    """


class S3Executor:
    """
    An S3 client with a thread pool of its own, so that one kind of work cannot block another (bulkhead).

    Args:
        settings: of the bucket.
        name: prefix of the threads' names.
        threads: number of concurrent calls; further ones wait.
        connect, read: timeouts in seconds.
        attempts: number of attempts per call.
    """

    def __init__(
        self, settings: S3Settings, name: str, *, threads: int, connect: float, read: float, attempts: int
    ) -> None:
        self.client = _client(settings, threads=threads, connect=connect, read=read, attempts=attempts)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """
        Run *work* in the thread pool. It is completed even when the caller is cancelled.

        Raises:
            NoSuchKey, AlreadyExists, RangeNotSatisfiable: as their docstrings say.
            Unavailable: S3 does not answer, or throttles (ASSET_STORE_UNAVAILABLE).
            ResourceExhausted: S3 is out of storage (ASSET_STORE_FULL).
            Internal: S3 rejected the call: check the settings of both sides.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (BotoCoreError, ClientError, OSError) as error:
            raise _translate(error) from error

    async def close(self) -> None:
        """
        Wait for calls in progress (each has a timeout), then stop the threads.
        """
        await asyncio.to_thread(self._threads.shutdown)
        self.client.close()


@cache
def session() -> boto3.session.Session:
    """
    The session of all clients, shared because each session loads AWS's service definitions.
    """
    made = boto3.session.Session()
    traffic().watch(made.events)
    made.events.register("before-call.s3.DeleteObjects", _add_md5)
    return made


@cache
def traffic() -> Traffic:
    """
    Request metrics of all clients of this process.
    """
    return Traffic()


def _client(settings: S3Settings, *, threads: int, connect: float, read: float, attempts: int) -> S3Client:
    foreign = settings.endpoint is not None
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if foreign else "auto"},
        connect_timeout=connect,
        read_timeout=read,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=threads,
        tcp_keepalive=True,
        # boto3 sends checksums as trailers, which several S3-compatible servers do not support. There the body is
        # signed instead, with its sha256 in the signature; AWS gets the checksums.
        request_checksum_calculation="when_required" if foreign else "when_supported",
        response_checksum_validation="when_required",
    )
    client: S3Client = session().client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=config,
    )
    return client


def _add_md5(params: dict[str, Any], **_: object) -> None:
    # DeleteObjects requires a checksum, and several S3-compatible servers support no other one; AWS accepts either.
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


_ANSWERS: dict[str, type[Exception]] = {"absent": NoSuchKey, "taken": AlreadyExists, "past_end": RangeNotSatisfiable}
# RFC 4918, section 11.5, used by MinIO, Ceph and others, and error codes of servers that use another status.
_INSUFFICIENT_STORAGE, _FULL = 507, {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded"}
_SILENT = (HTTPClientError, NoConnection, IncompleteReadError, OSError)


def _translate(error: Exception) -> Exception:
    if isinstance(error, ClientError):
        how = outcome(error.response["ResponseMetadata"]["HTTPStatusCode"])
        code = error.response["Error"].get("Code", "")
        if how in _ANSWERS and code != "NoSuchBucket":
            return _ANSWERS[how](code)
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == _INSUFFICIENT_STORAGE or code in _FULL:
            _log.error("the object store is full: %s", error)
            return ResourceExhausted("ASSET_STORE_FULL", "the object store is out of storage")
        silent = how == "busy"
    else:
        silent = isinstance(error, _SILENT)
    if silent:
        # Not a warning: readiness reports it once, and the call log for each call.
        _log.debug("the object store does not answer: %s", error)
        return Unavailable(
            "ASSET_STORE_UNAVAILABLE", "the object store is unavailable: retry", retry_after=_RETRY_AFTER
        )
    _log.error("the object store cannot be used: %s", error)
    return Internal("ASSET_STORE_REFUSES", "the object store rejected the call: check the service's S3 settings")
