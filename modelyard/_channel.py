"""
Shared by both clients: channel options, retries, call metadata, newest revisions.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from modelyard._target import is_loopback, parse_target
from modelyard._token import TokenSource
from modelyard.cache.v1 import cache_pb2
from modelyard.cdn.v1 import assets_pb2, delivery_pb2, uploads_pb2
from modelyard.cdn.v1 import changes_pb2 as asset_changes_pb2
from modelyard.error_details import DETAILS, error_info
from modelyard.registry.v1 import (
    aliases_pb2,
    audit_pb2,
    cards_pb2,
    changes_pb2,
    deployments_pb2,
    evaluations_pb2,
    imports_pb2,
    models_pb2,
    namespaces_pb2,
    versions_pb2,
)

DEFAULT_TARGET = "127.0.0.1:8080"
DEFAULT_DEADLINE = 30.0

# As much as servers take and send: a page of a thousand models may be large.
_MESSAGE_BYTES = 16 * 1024 * 1024
_CONTRACTS: Sequence[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        namespaces_pb2,
        models_pb2,
        versions_pb2,
        aliases_pb2,
        cards_pb2,
        evaluations_pb2,
        deployments_pb2,
        audit_pb2,
        changes_pb2,
        imports_pb2,
        assets_pb2,
        asset_changes_pb2,
        uploads_pb2,
        delivery_pb2,
        cache_pb2,
    )
]
_READS = ("Get", "BatchGet", "List", "Search", "Query", "Find", "Scan", "Stats")
# Starts like a read and hands out a lease.
_NOT_READS = {"GetOrLease"}

Metadata = Sequence[tuple[str, str | bytes]]


def _reads() -> Iterator[dict[str, str]]:
    for contract in _CONTRACTS:
        for service in contract.services_by_name.values():
            for method in service.methods:
                if method.name.startswith(_READS) and method.name not in _NOT_READS and not method.server_streaming:
                    yield {"service": service.full_name, "method": method.name}


def channel_options(address: str, extra: Iterable[tuple[str, Any]] = ()) -> list[tuple[str, Any]]:
    """
    The options of a channel: message sizes, keepalive, and retries of reads, and only of reads, on UNAVAILABLE. A proxy
    in the environment is never used for loopback.
    """
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {
        "methodConfig": [{"name": list(_reads()), "retryPolicy": retry}],
        # When most calls fail, retries add to the overload: stop them until calls succeed again.
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5},
    }
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
        # The shortest interval that servers allow by default (gRPC proposal A8): five minutes.
        ("grpc.keepalive_time_ms", 300_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A transfer resumes soon after its server is back, not up to two minutes later.
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", "modelyard"),
        *([("grpc.enable_http_proxy", 0)] if is_loopback(address) else []),
        *extra,
    ]


def choose_credentials(
    credentials: grpc.ChannelCredentials | None,
    ca_file: str | os.PathLike[str] | None,
    cert_file: str | os.PathLike[str] | None,
    key_file: str | os.PathLike[str] | None,
) -> grpc.ChannelCredentials | None:
    """
    The TLS credentials of a client, from an object or from files; None means that the target decides.

    Args:
        credentials: credentials of gRPC.
        ca_file: CA bundle (PEM) that verifies the server's certificate; None means the system's.
        cert_file, key_file: client certificate and key (PEM), for servers that require one.

    Raises:
        OSError: a file cannot be read.
        ValueError: credentials and files are given, one of a certificate and its key is missing, or a file is not PEM.
    """
    if ca_file is None and cert_file is None and key_file is None:
        return credentials
    if credentials is not None:
        raise ValueError("credentials and files for TLS are given: one is enough")
    if (cert_file is None) != (key_file is None):
        raise ValueError("a certificate and its key go together: give both files, or none")
    roots = None if ca_file is None else _pem(ca_file, "CERTIFICATE", "certificate")
    if cert_file is None or key_file is None:
        return grpc.ssl_channel_credentials(roots)
    key = _pem(key_file, "PRIVATE KEY", "unencrypted private key")
    return grpc.ssl_channel_credentials(roots, key, _pem(cert_file, "CERTIFICATE", "certificate"))


def _pem(file: str | os.PathLike[str], label: str, what: str) -> bytes:
    # gRPC reports invalid files at the first call only, and not which.
    content = Path(file).read_bytes()
    if not re.search(rb"-----BEGIN (?!ENCRYPTED )([A-Z]+ )?" + label.encode() + b"-----", content):
        raise ValueError(f"{os.fspath(file)} holds no {what} in PEM")
    return content


def connection(
    target: str | None,
    credentials: grpc.ChannelCredentials | None,
    ca_file: str | os.PathLike[str] | None,
    cert_file: str | os.PathLike[str] | None,
    key_file: str | os.PathLike[str] | None,
) -> tuple[str, grpc.ChannelCredentials | None]:
    """
    The address and the credentials of a client. Without a target both come from the environment: MODELYARD_TARGET, and
    MODELYARD_CA_FILE, MODELYARD_CERT_FILE, MODELYARD_KEY_FILE if no files are given.

    Raises:
        OSError: a file cannot be read.
        ValueError: the target is invalid, or the credentials contradict each other or the target.
    """
    if target is None:
        target = os.environ.get("MODELYARD_TARGET") or DEFAULT_TARGET
        if credentials is None and ca_file is None and cert_file is None and key_file is None:
            ca_file, cert_file, key_file = (
                os.environ.get(f"MODELYARD_{name}_FILE") or None for name in ("CA", "CERT", "KEY")
            )
    return parse_target(target, choose_credentials(credentials, ca_file, cert_file, key_file))


@functools.cache
def _request_of(method: str) -> str:
    """
    The full name of a method's request message; empty if its contract is not loaded.
    """
    try:
        found = descriptor_pool.Default().FindMethodByName(method[1:].replace("/", "."))
    except KeyError:
        return ""
    return str(found.input_type.full_name)


def check_request(method: str, request: object) -> None:
    """
    Reject a request of the wrong type; gRPC would report INTERNAL.

    Raises:
        TypeError: *request* is another message, or not a message.
    """
    wanted = _request_of(method)
    if isinstance(request, Message):
        if not wanted or request.DESCRIPTOR.full_name == wanted:
            return
        given = str(request.DESCRIPTOR.full_name)
    else:
        given = type(request).__name__
    name = method.rpartition("/")[2]
    raise TypeError(f"{name} takes a {wanted or 'message'}, not a {given}")


@dataclass(slots=True)
class Session:
    """
    The state of one client that every call carries: token, request id, deadline, and the newest revision seen, so that
    a client always reads what it wrote.

    Args:
        token: sent as `authorization: Bearer …`; None for no token.
        deadline: default timeout of unary calls in seconds; None for no timeout.
    """

    token: str | TokenSource | None = field(repr=False)
    deadline: float | None
    # Each service counts on its own, so revisions are kept by package: modelyard.registry.v1 and so on.
    _revisions: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def revision(self, package: str = "modelyard.registry.v1") -> int:
        """
        The newest revision seen of the service behind *package*; 0 before the first response.
        """
        return self._revisions.get(package, 0)

    def due(self) -> bool:
        """
        Whether `metadata` may take long, because a token has to be fetched.
        """
        return not (self.token is None or isinstance(self.token, str)) and self.token.due()

    def metadata(self, method: str, given: Any) -> list[tuple[str, str | bytes]]:
        """
        The metadata of a call: that of the caller, and the session's where the caller gave none.

        Raises:
            LoginError: the token of the login has expired and cannot be refreshed.
        """
        found: list[tuple[str, str | bytes]] = list(given or ())
        keys = {key for key, _ in found}
        token = self.token if self.token is None or isinstance(self.token, str) else self.token.read()
        if token is not None and "authorization" not in keys:
            found.append(("authorization", f"Bearer {token}"))
        if "x-request-id" not in keys:
            found.append(("x-request-id", uuid.uuid4().hex))
        revision = self.revision(_package(method))
        if revision and "x-min-revision" not in keys:
            found.append(("x-min-revision", str(revision)))
        return found

    def note(self, method: str, trailers: Any) -> None:
        """
        Record the revision in the trailers of a call; forget one that the service no longer has.
        """
        for key, value in trailers or ():
            if key == "x-revision" and str(value).isdecimal():
                package = _package(method)
                with self._lock:
                    self._revisions[package] = max(self._revisions.get(package, 0), int(value))
            elif key == DETAILS and isinstance(value, bytes) and (newest := _set_back(value)) is not None:
                # Its database was restored from a backup or lost writes in a failover. This call has failed, so that
                # the caller notices; later calls require the revision that exists.
                package = _package(method)
                with self._lock:
                    self._revisions[package] = min(self._revisions.get(package, 0), newest)


def _set_back(details: bytes) -> int | None:
    """
    The newest revision of a service that does not have the required one; None for other errors.
    """
    if b"REVISION_NOT_REACHED" not in details:
        return None
    info = error_info(details)
    newest = info.metadata.get("revision", "")
    return int(newest) if info.reason == "REVISION_NOT_REACHED" and newest.isdecimal() else None


def _package(method: str) -> str:
    # "/modelyard.registry.v1.ModelService/GetModel" → "modelyard.registry.v1"
    return method[1:].partition("/")[0].rpartition(".")[0]
