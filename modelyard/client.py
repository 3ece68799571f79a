"""
The threaded client.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc

from modelyard._channel import DEFAULT_DEADLINE, Session, channel_options, connection
from modelyard._closing import ClosingChannel
from modelyard._interceptor import Interceptor
from modelyard._target import server_of
from modelyard._token import choose_token
from modelyard._transfer import Transfer
from modelyard.cache.v1 import cache_pb2_grpc
from modelyard.cdn.v1 import assets_pb2, assets_pb2_grpc, delivery_pb2_grpc, uploads_pb2_grpc
from modelyard.cdn.v1 import changes_pb2_grpc as asset_changes_pb2_grpc
from modelyard.registry.v1 import (
    alias_rules_pb2_grpc,
    aliases_pb2_grpc,
    audit_pb2_grpc,
    cards_pb2_grpc,
    changes_pb2_grpc,
    deployments_pb2_grpc,
    evaluations_pb2_grpc,
    imports_pb2_grpc,
    models_pb2_grpc,
    namespaces_pb2_grpc,
    policies_pb2_grpc,
    promotions_pb2_grpc,
    tokens_pb2_grpc,
    versions_pb2_grpc,
)
from modelyard.transfer import (
    RANGED_BYTES,
    ProgressCallback,
    RangeDownload,
    StreamDownload,
    UploadSource,
    no_progress,
    upload,
)


def connect(
    target: str | None = None,
    token: str | None = None,
    *,
    token_file: str | os.PathLike[str] | None = None,
    deadline: float | None = DEFAULT_DEADLINE,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Client:
    """
    Connect to the gateway, or to one service. The connection is established by the first call.

    Args:
        target: host:port, or an http:// or https:// URL; https means TLS. Default: $MODELYARD_TARGET, with
            $MODELYARD_CA_FILE, $MODELYARD_CERT_FILE and $MODELYARD_KEY_FILE, otherwise 127.0.0.1:8080. A proxy in the
            environment (https_proxy, no_proxy) is used as by gRPC, but never for loopback.
        token: bearer token; empty for none. Default: $MODELYARD_TOKEN, or the file in $MODELYARD_TOKEN_FILE, otherwise
            that of `modelyard login` at this server, which is refreshed before it expires.
        token_file: file with the token, read again when it changes; instead of *token*.
        deadline: timeout in seconds of unary calls without a `timeout` of their own; None for no timeout. Streams have
            no timeout by default.
        ca_file: enables TLS: the CA bundle (PEM) that the server's certificate is verified against. Without it, an
            https:// target uses the system's.
        cert_file, key_file: enable TLS with a client certificate and its key, for servers that require one. All three
            files are read once, when connecting.
        credentials: TLS credentials, instead of files.
        options: further channel options, as in `grpc.insecure_channel`.

    Raises:
        OSError: a file cannot be read.
        ValueError: *target* is invalid, the token is invalid, a token or credentials are given twice, or a TLS file is
            not PEM.
        LoginError: the credentials of `modelyard login` cannot be used.

    Example:
        with modelyard.connect("127.0.0.1:8080", token) as yard:
            asset = yard.upload_file("model.safetensors")
    """
    address, credentials = connection(target, credentials, ca_file, cert_file, key_file)
    server = server_of(address, secure=credentials is not None)
    merged = channel_options(address, options)
    channel = (
        grpc.insecure_channel(address, merged)
        if credentials is None
        else grpc.secure_channel(address, credentials, merged)
    )
    return Client(channel, Session(choose_token(token, token_file, server), deadline))


class Client:
    """
    The services of a Modelyard, as typed stubs; safe to use from several threads.

    Every call carries a request id and the newest revision that this client has seen, so that it reads its own writes.
    Reads are retried while the server is unavailable; writes are not: retry them with the same `request_id`. Failed
    calls raise `grpc.RpcError`; `modelyard.explain` returns its details. Calls after `close` raise ValueError.

    After a fork (`os.fork`, a `multiprocessing.Pool` that forks) the child has to create its own client; the parent's
    remains usable.

    Args:
        channel: the channel; closed with the client.
        session: state that every call carries.
    """

    def __init__(self, channel: grpc.Channel, session: Session) -> None:
        self._channel = ClosingChannel(channel)
        self._session = session
        intercepted = grpc.intercept_channel(self._channel, Interceptor(session))
        self.namespaces = namespaces_pb2_grpc.NamespaceServiceStub(intercepted)
        self.policies = policies_pb2_grpc.PolicyServiceStub(intercepted)
        self.alias_rules = alias_rules_pb2_grpc.AliasRuleServiceStub(intercepted)
        self.promotions = promotions_pb2_grpc.PromotionServiceStub(intercepted)
        self.api_tokens = tokens_pb2_grpc.ApiTokenServiceStub(intercepted)
        self.models = models_pb2_grpc.ModelServiceStub(intercepted)
        self.versions = versions_pb2_grpc.VersionServiceStub(intercepted)
        self.aliases = aliases_pb2_grpc.AliasServiceStub(intercepted)
        self.cards = cards_pb2_grpc.CardServiceStub(intercepted)
        self.evaluations = evaluations_pb2_grpc.EvaluationServiceStub(intercepted)
        self.deployments = deployments_pb2_grpc.DeploymentServiceStub(intercepted)
        self.audit = audit_pb2_grpc.AuditServiceStub(intercepted)
        self.changes = changes_pb2_grpc.ChangeServiceStub(intercepted)
        self.imports = imports_pb2_grpc.ImportServiceStub(intercepted)
        self.assets = assets_pb2_grpc.AssetServiceStub(intercepted)
        self.asset_changes = asset_changes_pb2_grpc.ChangeServiceStub(intercepted)
        self.uploads = uploads_pb2_grpc.UploadServiceStub(intercepted)
        self.delivery = delivery_pb2_grpc.DeliveryServiceStub(intercepted)
        self.keyvalue = cache_pb2_grpc.KeyValueServiceStub(intercepted)
        self._transfer = Transfer(self)
        self.cache_admin = cache_pb2_grpc.CacheAdminServiceStub(intercepted)

    @property
    def revision(self) -> int:
        """
        The newest revision of the registry that this client has seen, 0 before the first answer.
        """
        return self._session.revision()

    def upload_file(
        self,
        path: str | os.PathLike[str] | UploadSource,
        *,
        media_type: str = "",
        owner: str = "",
        private: bool = False,
        progress: ProgressCallback = no_progress,
        hashing: ProgressCallback = no_progress,
    ) -> assets_pb2.Asset:
        """
        Upload a file as an asset. Bytes that are stored already are not sent. The upload of a file above 8 MiB is
        resumable: after any failure, call this again to continue with the first missing part.

        Args:
            path: path of the file, or an `UploadSource`, which is already hashed and has its media type.
            media_type: such as text/plain; empty derives it from the file name.
            owner: owner whose quota is charged: the full name of a version, or static/{path}; empty charges none.
            private: restrict it to presigned URLs: /assets/{sha256} does not serve it.
            progress: called with the number of uploaded and of all bytes.
            hashing: called with the number of hashed and of all bytes, before anything is sent.

        Raises:
            OSError: the file cannot be read.
            FileChangedError: the file changed during the upload; nothing was stored under its former digest.
            grpc.RpcError: the error is not retryable, or the attempts without progress are exhausted, such as with
                UPLOAD_TAKEN_OVER while another client uploads the same file.
        """
        file = path if isinstance(path, UploadSource) else UploadSource.of(path, media_type, hashing)
        return self._transfer.carry_out(upload(file, owner=owner, private=private, progress=progress))

    def download_file(
        self, name: str | assets_pb2.Asset, path: str | os.PathLike[str], *, progress: ProgressCallback = no_progress
    ) -> assets_pb2.Asset:
        """
        Download an asset to a file, which appears complete and verified, or not at all. An interrupted download is
        resumed from the partial file beside it. A file above 32 MiB is received in four concurrent streams. Of several
        downloads to the same path, in one process or in several, one proceeds and the others wait for it.

        Args:
            name: name of the asset, assets/{sha256}; or the asset, which saves a call.
            path: target path; an existing file is replaced.
            progress: called with the number of received and of all bytes.

        Raises:
            OSError: the file cannot be written.
            IntegrityError: the received bytes do not match the digest; they were discarded.
            grpc.RpcError: the error is not retryable, or the attempts without progress are exhausted.
        """
        asset = self.assets.GetAsset(assets_pb2.GetAssetRequest(name=name)) if isinstance(name, str) else name
        if asset.size_bytes > RANGED_BYTES:
            with RangeDownload(asset, path, progress) as ranged:
                self._transfer.receive_ranges(ranged)
                while not ranged.finish():
                    self._transfer.receive_ranges(ranged)
            return asset
        with StreamDownload(asset, path, progress) as incoming:
            self._transfer.receive(incoming)
            while not incoming.finish():
                self._transfer.receive(incoming)
        return asset

    def close(self) -> None:
        """
        Close the connection and cancel the calls in progress.
        """
        self._transfer.close()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
