"""
Where boto3 is: clients, threads, and S3's errors told in our words.
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

#: After how many seconds a caller may try again when S3 does not answer.
_RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class S3Settings:
    """
    Where the bucket is.

    Args:
        bucket: its name.
        region: as AWS calls it; S3-compatible servers mostly take any.
        endpoint: the address of an S3-compatible server; None means AWS.
        access_key, secret_key: None means the usual chain (environment, profile, role of the machine or the pod).
    """

    bucket: str
    region: str = "us-east-1"
    endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


class NoSuchKey(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    S3 has no such key or upload (404).
    """


class AlreadyExists(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    The key is there already, and the write was to be the first (412).
    """


class RangeNotSatisfiable(Exception):  # noqa: N818 - an outcome, which callers expect
    """
    The range begins at or after the end (416).
    """


class S3Executor:
    """
    A client of its own with threads of its own, so that one kind of work cannot hold up another.

    Args:
        settings: where the bucket is.
        name: of the threads.
        threads: how many calls run at once; more of them wait.
        connect, read: seconds that S3 may take to accept a connection, and to send something.
        attempts: how often a call is tried in all.
    """

    def __init__(
        self, settings: S3Settings, name: str, *, threads: int, connect: float, read: float, attempts: int
    ) -> None:
        self.client = _client(settings, threads=threads, connect=connect, read=read, attempts=attempts)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """
        Do *work* in one of the threads. It goes on there even when the caller is cancelled.

        Raises:
            NoSuchKey, AlreadyExists, RangeNotSatisfiable: as their docstrings say.
            Unavailable: S3 does not answer, or says that it cannot for now (ASSET_STORE_UNAVAILABLE).
            ResourceExhausted: S3 has no room (ASSET_STORE_FULL).
            Internal: S3 refuses, which is a matter of its or our settings.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (BotoCoreError, ClientError, OSError) as error:
            raise _translate(error) from error

    async def close(self) -> None:
        """
        Wait for the calls under way (each has its timeouts), then end the threads.
        """
        await asyncio.to_thread(self._threads.shutdown)
        self.client.close()


@cache
def session() -> boto3.session.Session:
    """
    The one of all clients: each with its own would read all that AWS's services can do again.
    """
    made = boto3.session.Session()
    traffic().watch(made.events)
    made.events.register("before-call.s3.DeleteObjects", _add_md5)
    return made


@cache
def traffic() -> Traffic:
    """
    What all clients of this process have said to S3.
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
        # boto3's own checksums come as trailers that several S3-compatible servers do not understand. There each
        # body is signed instead, and its sha256 is in the signature; AWS gets the checksums.
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
    # Several S3-compatible servers know no other checksum of the one call that must have one; AWS takes either.
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


_ANSWERS: dict[str, type[Exception]] = {"absent": NoSuchKey, "taken": AlreadyExists, "past_end": RangeNotSatisfiable}
# RFC 4918, section 11.5, which MinIO, Ceph and others answer, and what they call it where they answer something else.
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
            return ResourceExhausted("ASSET_STORE_FULL", "the object store has no room for it")
        silent = how == "busy"
    else:
        silent = isinstance(error, _SILENT)
    if silent:
        # Not a warning: readiness says it once, and the log of calls says it for each.
        _log.debug("the object store does not answer: %s", error)
        return Unavailable(
            "ASSET_STORE_UNAVAILABLE", "the object store does not answer: try again", retry_after=_RETRY_AFTER
        )
    _log.error("the object store cannot be used: %s", error)
    return Internal("ASSET_STORE_REFUSES", "the object store refuses the call: the service's settings need a look")
